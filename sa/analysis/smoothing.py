"""The best smoothing scale: descent along box-smoothed and gaussian-smoothed gradients."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Len
from pydantic.dataclasses import dataclass

from sa.analysis import _finite
from sa.analysis._line import cosine, descend, unit
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.table import ranking
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params

Scales = Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)]


@dataclass(frozen=True, config=STRICT)
class Smoothing:
    """Gradients of the loss smoothed over boxes (half-width eps) and over gaussians (sigma).

    Curves over eps (under ``box/``) and over sigma (under ``gaussian/``):

    - ``norm`` of the gradient
    - ``best``: the best decrease of the loss along it; ``heldout``: the held-out decrease at the
      same lr
    - ``gaussian/agreement``: the cosine between two independent estimates; below 1 it shows noise
    - ``gap`` E f(w + s e) - f(w), with e normal (gaussian) or uniform in the cube (box)
    - ``flips``: the share of states of activations that the best step changes

    ``cosine`` holds all cosines between the two kinds, sigma by sigma. ``epsilon`` and ``sigma``
    are the scales with the largest held-out decrease. ``epsilon_low`` to ``epsilon_high`` and
    ``sigma_low`` to ``sigma_high`` are the scales around them that are as good within noise: their
    decrease is smaller by no more than the 95 % half-width of the best mean over the held-out rows.
    (Differences are not paired by row, because other rows would also give other directions.) If a
    range has all the scales, the choice does not matter. These numbers are NaN if no decrease is
    finite.

    Losses that are not finite are left out: ``nonfinite`` counts them among the draws of the gaps
    and the best steps. ``diverged`` is 1 if no step has a finite loss.

    Args:
        smoother: estimator of the gaussian-smoothed gradient, whose ``sigma`` is replaced:
            local_nes, or nes for networks that local_nes refuses.
        epsilons: half-widths of the box, in the units of the weights; one pass of exact differences
            gives all of them.
        sigmas: standard deviations of the gaussian, in the units of the weights.
        lr_min: least step length to try.
        lr_max: largest step length to try.
        points: step lengths from lr_min to lr_max, evenly spaced in their logarithm, 3 or more.
        draws: samples of the smoothed loss, for ``gap``.

    """

    smoother: Estimator
    epsilons: Scales = (0.001, 0.01, 0.1, 1.0)
    sigmas: Scales = (0.001, 0.01, 0.1, 1.0)
    lr_min: Annotated[float, Gt(0)] = 1e-3
    lr_max: Annotated[float, Gt(0)] = 10.0
    points: Annotated[int, Ge(3)] = 41
    draws: Annotated[int, Ge(1)] = 32

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``smoothing/``."""
        value, w = float(estimate.value), flatten(params)
        boxes = [flatten(g) for g in objective.differences(params, self.epsilons).grads]
        gaussians, agreement = [], []
        shape = self.draws, size(params)
        like: Any = {"generator": generator, "dtype": w.dtype, "device": w.device}
        normal, cube = torch.randn(shape, **like), 2 * torch.rand(shape, **like) - 1
        for sigma in self.sigmas:
            smoother: Any = replace(self.smoother, sigma=sigma)  # type: ignore[type-var]
            pair = [flatten(smoother(objective, params, {}, generator, at).grad) for _ in range(2)]
            gaussians.append((pair[0] + pair[1]) / 2)
            agreement.append(cosine(*pair))
        out: Numbers = {"gaussian/agreement": agreement}
        probed = []
        for kind, scale, scales, grads, e in (
            ("box", "epsilon", self.epsilons, boxes, cube),
            ("gaussian", "sigma", self.sigmas, gaussians, normal),
        ):
            best, held, flips, gains = self._descend(objective, params, value, grads)
            moved = [objective.values(unflatten(w + s * e, params)) for s in scales]
            out[f"{kind}/gap"] = [_finite.mean(m) - value for m in moved]
            probed += [*moved, torch.tensor(best, dtype=torch.float64)]
            if flips:
                out[f"{kind}/flips"] = flips
            out |= {
                f"{kind}/{scale}": list(scales),
                f"{kind}/norm": [float(g.double().norm()) for g in grads],
                f"{kind}/best": best,
            }
            if held:
                out[f"{kind}/heldout"] = held
            found = ranking.within_noise(gains.numpy(), paired=False)
            for i, name in enumerate(("", "_low", "_high")):
                out[f"{scale}{name}"] = scales[found[i]] if found else math.nan
        out["cosine"] = [cosine(g, b) for g in gaussians for b in boxes]
        out |= _finite.counted(torch.cat([p.cpu().double() for p in probed]))
        steps = torch.tensor([*out["box/best"], *out["gaussian/best"]])  # type: ignore[misc]
        out["diverged"] = _finite.counted(steps)["diverged"]
        return {f"smoothing/{k}": v for k, v in out.items()}

    def _descend(
        self, objective: Objective, params: Params, value: float, grads: list[torch.Tensor]
    ) -> tuple[list[float], list[float], list[float], torch.Tensor]:
        """Return the best decreases along gradients, and at the same lrs three more results.

        The three are the held-out decreases, the shares of flipped states, and the decreases of
        each row (rows, gradients). The rows are the held-out ones if there are any.
        """
        low, high = math.log10(self.lr_min), math.log10(self.lr_max)
        lrs = torch.logspace(low, high, self.points, dtype=torch.float64)
        best, held, flips, after = [], [], [], []
        judge = objective if objective.heldout is None else objective.heldout
        for grad in grads:
            drop, lr, heldout = descend(objective, params, grad, value, lrs)
            best.append(drop)
            if heldout is not None:
                held.append(heldout)
            there = unflatten(flatten(params) - lr * unit(grad), params)
            after.append(judge.row_losses(there))
            rate = objective.flip_rate(params, there)
            if rate is not None:
                flips.append(rate if math.isfinite(lr) else math.nan)
        gains = judge.row_losses(params)[:, None] - torch.stack(after, 1)
        return best, held, flips, gains

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the eps and the sigma with the largest decrease, in words."""
        scales = (("epsilon", "eps"), ("sigma", "sigma"))
        there = [(scale, short) for scale, short in scales if f"smoothing/{scale}" in result]
        return [(f"which {short}?", _range(result, scale, short)) for scale, short in there]


def _range(result: Mapping[str, Any], scale: str, short: str) -> str:
    """Return the best scale and those that descend as far within noise, in words."""
    if result[f"smoothing/{scale}"] is None:
        return "undefined: no decrease is finite"
    low, high = (result.get(f"smoothing/{scale}_{end}") for end in ("low", "high"))
    best = f"{short} {result[f'smoothing/{scale}']:g} descends furthest"
    if low is None or high is None:  # a record from before these numbers were added
        return best
    kind = "box" if scale == "epsilon" else "gaussian"
    tried = result.get(f"smoothing/{kind}/{scale}") or []
    if low == high:
        return f"{best}; no neighbour is within noise of it"
    same = f"{low:g} to {high:g} are within noise of it"
    every = tried and [low, high] == [tried[0], tried[-1]]
    return f"indifferent: {same}" if every else f"{best}; {same}"
