"""What a loss is seen as a function of, where weights or activations are quantized."""

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
"""The views, and what the loss is a function of in each."""

DERIVATIVES, VALUES = True, False
"""What an analysis needs of the loss in a view."""


def check(structure: Structure, view: str, needs: Mapping[str, bool], what: str) -> None:
    """Raise ValueError where ``what`` has no meaning in a view, naming the views where it has.

    needs: view -> whether derivatives are taken there. A loss has them with respect to latent
    weights where nothing is quantized, to quantized weights where activations are not.
    """
    why = _obstacle(structure, view, needs.get(view))
    if why is None:
        return
    instead = [v for v in needs if _obstacle(structure, v, needs[v]) is None]
    told = "; ".join(f"view={v} ({MEANS[v]})" for v in instead)
    told = f"take instead: {told}, or" if told else "no view of this network has it; take"
    other = f"{told} the network in full precision (quantizer=fp)"
    if not structure.quantized:  # it is
        other = told.removesuffix(", or")
    raise ValueError(f"view={view}: {why}, so {what} has no meaning there; {other}")


def _obstacle(structure: Structure, view: str, derivatives: bool | None) -> str | None:
    """Why a view has no meaning; None where it has."""
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
    """Whether the other sign of a latent weight is the other value of the quantized one."""
    return how.startswith("Sign(") or (how.startswith("Xnor(") and "centre=True" not in how)


def flippable(structure: Structure, params: Params) -> list[str]:
    """The binary weights among the parameters, by name."""
    binary = {k for k, how in structure.quantized.items() if _binary(how)}
    return [k for k in params if k in binary]


def numbers(params: Params) -> None:
    """Raise ValueError where the point has no numbers: there is nothing to measure then."""
    if not size(params):
        raise ValueError("the point has no numbers; give a dict with a tensor that is not empty")


def seen(objective: Objective, params: Params, view: str) -> tuple[Objective, Params]:
    """The loss over all training rows and the point, in float64, in the view.

    ``quantized``: of the quantized weights, with their quantizers taken away; else of the latent.
    Raises ValueError where the point has no numbers.
    """
    numbers(params)
    params = {k: p.detach() for k, p in params.items()}
    whole = objective.whole or objective
    if view == "quantized":
        whole, params = whole.opened(params)
    twin = whole.double()
    return (whole, params) if twin is None else (twin, {k: p.double() for k, p in params.items()})
