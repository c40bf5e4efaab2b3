"""Views of a quantized network: the numbers that an analysis takes as inputs of the loss."""

from collections.abc import Mapping

from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import size
from sa.types import Params

MEANS = {
    "latent": "the weights that are trained",
    "quantized": "the quantized weights, as if they were free",
    "smoothed": "the mean loss under gaussian noise of sigma on the latent weights",
    "discrete": "single flips of binary weights",
}
"""View -> the numbers that the loss is a function of."""

DERIVATIVES, VALUES = True, False
"""An analysis needs derivatives of the loss in a view, or its values alone."""


def check(structure: Structure, view: str, needs: Mapping[str, bool], what: str) -> None:
    """Raise ValueError, with the views that work, if an analysis has no meaning in a view.

    A loss has derivatives by latent weights if nothing is quantized, and by quantized weights if no
    activation is quantized.

    Args:
        structure: the network.
        view: the view.
        needs: view -> whether the analysis needs derivatives there.
        what: the quantity, in words.

    """
    why = _why_not(structure, view, needs.get(view))
    if why is None:
        return
    works = [v for v in needs if _why_not(structure, v, needs[v]) is None]
    advice = "; ".join(f"view={v} ({MEANS[v]})" for v in works)
    advice = f"take instead: {advice}, or" if advice else "no view of this network has it; take"
    if structure.quantized:
        advice += " the network in full precision (quantizer=fp)"
    else:
        advice = advice.removesuffix(", or")
    raise ValueError(f"view={view}: {why}, so {what} has no meaning there; {advice}")


def _why_not(structure: Structure, view: str, derivatives: bool | None) -> str | None:
    """Return why a view has no meaning, or None if it has one."""
    slots: dict[str, list[str]] = {"weight": [], "activation": []}
    for name in structure.quantized:
        slots.setdefault(name.rpartition(".")[2], []).append(name)
    if derivatives is None:
        return "it is not measured in this view"
    if view == "quantized" and structure.stochastic:
        return "the quantized weights or activations are random"
    if view == "discrete":
        binary = [k for k in slots["weight"] if _binary(structure.quantized[k])]
        return None if binary else "no layer has binary weights to flip"
    hard = slots["activation"] + (slots["weight"] if view == "latent" else [])
    if derivatives and hard and view in ("latent", "quantized"):
        return f"'{hard[0]}' is a step: the loss is flat almost everywhere, its derivatives 0"
    return None


def _binary(how: str) -> bool:
    """Return whether flipping the sign of a latent weight flips the quantized weight."""
    return how.startswith("Sign(") or (how.startswith("Xnor(") and "centre=True" not in how)


def flippable(structure: Structure, params: Params) -> list[str]:
    """Return the names of the parameters that are binary weights."""
    binary = {k for k, how in structure.quantized.items() if _binary(how)}
    return [k for k in params if k in binary]


def numbers(params: Params) -> None:
    """Raise ValueError if the point has no numbers to measure."""
    if not size(params):
        raise ValueError("the point has no numbers; give a dict with a tensor that is not empty")


def viewed(objective: Objective, params: Params, view: str) -> tuple[Objective, Params]:
    """Return the loss over all training rows and the point, in float64, in a view.

    In view ``quantized`` the point is the quantized weights, and the loss has no quantizers of
    weights. In the other views it is the latent weights.

    Raises:
        ValueError: the point has no numbers.

    """
    numbers(params)
    params = {k: p.detach() for k, p in params.items()}
    whole = objective.whole or objective
    if view == "quantized":
        whole, params = whole.opened(params)
    twin = whole.double()
    return (whole, params) if twin is None else (twin, {k: p.double() for k, p in params.items()})
