"""How well an estimate points along a reference gradient, in direction and in scale."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic.dataclasses import dataclass

from sa.analysis import _finite
from sa.analysis._line import cosine
from sa.objective.objective import Objective
from sa.params import flatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Alignment:
    """Estimate g against references g* (default: exact CDG at two eps), whole and per layer.

    For the first reference: ``cosine``; ``scale`` r = <g, g*>/|g*|^2 (1 is right; a cosine hides
    factors); ``rmse`` |g - g*|/|g*|; ``sign`` and ``sign_weighted``, the share of coordinates of
    equal sign, plain and weighted by |g*|, over g* != 0; ``dead``, the share of coordinates with g
    = 0; ``cosine/<parameter>``; ``ceiling``, the cosine between the references of this batch and of
    the held-out one: how much of the reference is its own batch. An estimate free of any batch's
    noise has about its square root as cosine; one from this same batch can have more. For every
    further reference its ``<name>/cosine`` and ``<name>/scale``. ``nonfinite``: coordinates where
    the estimate or the first reference is not finite; ``diverged``: 1 where all are. Where
    estimator and reference have different targets (the record's ``target``) a cosine below 1 is no
    defect.

    Args:
        references: estimators by name. The first one has all numbers, each further one cosine and
            scale under its name.

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
            mine, target = flatten(estimate.grad).double(), flatten(truth).double()
            out[f"{name}/cosine"] = cosine(mine, target)
            out[f"{name}/scale"] = float(mine @ target / (target @ target))
            out |= {f"{name}/{k}": v for k, v in _layers(estimate.grad, truth).items()}
            if i == 0:
                out |= _details(estimate.grad, truth) | _finite.counted(mine + target)
                if objective.heldout is not None:
                    other = flatten(objective.heldout.reference(reference, params, at))
                    out["ceiling"] = cosine(target, other)
        return {f"alignment/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return the cosine and the scale in words, with what chance or theory would give."""
        if "alignment/cosine" not in result:
            return []
        law = ""
        if "cosine_expected" in result:
            expected = result["cosine_expected"]
            law = f"; a linear loss would give {expected:.3f}"
            if not expected:
                law = f"; chance gives 0 +- {result['parameters'] ** -0.5:.3f}"
        limit = result.get("alignment/ceiling")
        top = f"; two batches' {reference} agree to {limit:.3f}" if limit is not None else ""
        cosine = f"{number(result['alignment/cosine'])}{law}{top}"
        mine, other = result["target"], "box" if reference.startswith("CDG") else "its own"
        right = "1 is right"
        if mine != other:
            right = f"another target: {reference}'s is {other}, this one's {mine}"
        scale = f"{number(result['alignment/scale'])} of {reference}'s ({right})"
        return [(f"cosine to {reference}", cosine), ("scale", scale)]


def _details(grad: Params, truth: Params) -> Numbers:
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
    return {f"cosine/{k}": cosine(grad[k].flatten(), truth[k].flatten()) for k in grad}
