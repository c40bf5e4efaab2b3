"""How well an estimate agrees with a reference gradient, in direction and in scale."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic.dataclasses import dataclass

from sa.analysis import _finite, _reference
from sa.analysis._line import cosine
from sa.objective.objective import Objective
from sa.params import flatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Alignment:
    """Agreement of an estimate g with reference gradients g*, whole and for each parameter.

    The default references are exact CDGs at two eps. For the first reference:

    - ``cosine``, and ``cosine/<parameter>`` for each parameter
    - ``scale`` <g, g*>/|g*|^2: 1 is right (a cosine does not show a wrong factor)
    - ``rmse`` |g - g*|/|g*|
    - ``sign`` and ``sign_weighted``: the share of coordinates of equal sign over g* != 0, plain and
      weighted by |g*|
    - ``dead``: the share of coordinates with g = 0
    - ``ceiling``: the cosine between the references of this batch and of the held-out batch. An
      estimate without any batch noise has a cosine of about its square root; an estimate from this
      batch can have more
    - ``nonfinite``: how many coordinates of the estimate or the reference are not finite;
      ``diverged``: 1 if all are not

    Every further reference has ``<name>/cosine`` and ``<name>/scale``. If estimator and reference
    have different targets (``target`` in the record), a cosine below 1 is no defect.

    Args:
        references: estimators by name. The first one gets all numbers, each further one a cosine
            and a scale under its name.

    """

    references: dict[str, Estimator]

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``alignment/``."""
        out: Numbers = {}
        for i, (name, reference) in enumerate(self.references.items()):
            truth = objective.reference(reference, params, at)
            g, t = flatten(estimate.grad).double(), flatten(truth).double()
            out[f"{name}/cosine"] = cosine(g, t)
            out[f"{name}/scale"] = float(g @ t / (t @ t))
            out |= {f"{name}/{k}": v for k, v in _layers(estimate.grad, truth).items()}
            if i == 0:
                out |= _details(estimate.grad, truth) | _finite.counted(g + t)
                if objective.heldout is not None:
                    heldout = flatten(objective.heldout.reference(reference, params, at))
                    out["ceiling"] = cosine(t, heldout)
        return {f"alignment/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the cosine and the scale in words, with what chance or theory would give."""
        if "alignment/cosine" not in result:
            return []
        law = ""
        if "cosine_expected" in result:
            expected = result["cosine_expected"]
            law = f"; a linear loss would give {expected:.3f}"
            if not expected:
                law = f"; chance gives 0 +- {result['parameters'] ** -0.5:.3f}"
        first = next(iter(self.references.values()))
        reference, limit = _reference.called(first), result.get("alignment/ceiling")
        top = f"; two batches' {reference} agree to {limit:.3f}" if limit is not None else ""
        cosine = f"{number(result['alignment/cosine'])}{law}{top}"
        right, own = "1 is right", result["target"]
        if own != first.target:
            right = f"another target: {reference}'s is {first.target}, this one's {own}"
        scale = f"{number(result['alignment/scale'])} of {reference}'s ({right})"
        return [(f"cosine to {reference}", cosine), ("scale", scale)]


def _details(grad: Params, truth: Params) -> Numbers:
    """Return the numbers of the first reference, except counts of values that are not finite."""
    g, t = flatten(grad).double(), flatten(truth).double()
    alive = t != 0
    same = (g.sign() == t.sign()) & alive
    out: Numbers = {
        "cosine": cosine(g, t),
        "scale": float(g @ t / (t @ t)),
        "rmse": float((g - t).norm() / t.norm()),
        "sign": float(same[alive].double().mean()),
        "sign_weighted": float((same * t.abs()).sum() / t.abs().sum()),
        "dead": float((g == 0).double().mean()),
    }
    return out | _layers(grad, truth)


def _layers(grad: Params, truth: Params) -> Numbers:
    """Return the cosine of every parameter."""
    return {f"cosine/{k}": cosine(grad[k].flatten(), truth[k].flatten()) for k in grad}
