"""The fall of the loss along an estimate, over a grid of step lengths, here and held out."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis import _finite, _reference
from sa.analysis._line import line, unit
from sa.objective.objective import Objective
from sa.params import flatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Estimator, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Descent:
    """L(w) - L(w - eta d) for d = g/|g| on a log grid of eta, all points in one stacked evaluation.

    While the best point is on the edge of the grid, the grid is extended. Then it is refined once
    around the best point.

    Curves: ``lr``, ``decrease``, ``decrease_heldout``, and over random directions ``null`` (the
    mean), ``null_least`` and ``null_most``. Numbers:

    - ``best`` and its ``best_lr``, on the refined grid; within a few percent of the maximum of the
      line
    - ``best_heldout``: the held-out decrease at the same lr. On a small batch much of a decrease is
      overfitting
    - ``window``: decades of lr around the best with at least half of the best decrease
    - ``area``: the mean decrease over log lr from lr_min to lr_max; a negative decrease, or a loss
      that is not finite, counts as 0
    - ``edge``: 1 if the best is on the edge of the grid
    - ``null_best``, ``null_best_least`` and ``null_best_most``: mean, least and most of the best
      decreases along random directions
    - ``null_heldout``: the mean held-out decrease along the same random directions, each at its own
      best lr
    - ``ratio``: the best decrease divided by that of the reference
    - ``layerwise/`` ``best``, ``best_lr`` and ``best_heldout``: the same for d with every parameter
      tensor scaled to length 1, which is another direction
    - ``nonfinite``: how many losses along d are not finite; these are never the best. ``diverged``:
      1 if all are, and then the numbers of the best are NaN

    Args:
        reference: estimator of the reference for ``ratio``; null for no ratio.
        lr_min: least step length of the grid.
        lr_max: largest step length of the grid.
        points: step lengths of the grid, evenly spaced in their logarithm, from 3 to 10,000.
        extend: how many times the grid is extended by a decade, at most.
        nulls: random directions of the null, from 1 to 1,000.

    """

    reference: Estimator | None = None
    lr_min: Annotated[float, Gt(0)] = 1e-3
    lr_max: Annotated[float, Gt(0)] = 10.0
    points: Annotated[int, Ge(3), Le(10_000)] = 25
    extend: Annotated[int, Ge(0)] = 2
    nulls: Annotated[int, Ge(1), Le(1_000)] = 8

    @model_validator(mode="after")
    def _ordered(self) -> "Descent":
        if self.lr_min >= self.lr_max:
            raise ValueError(f"lr_min={self.lr_min} must be below lr_max={self.lr_max}")
        return self

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``descent/``."""
        value = float(estimate.value)
        grad = flatten(estimate.grad)
        lrs, drops, edge = self._search(objective, params, unit(grad), value)
        best = _finite.best(drops)
        inside = (lrs >= self.lr_min * (1 - 1e-9)) & (lrs <= self.lr_max * (1 + 1e-9))
        log, gains = lrs[inside].log10(), drops[inside].nan_to_num(0, posinf=0).clamp(min=0)
        out: Numbers = {
            "lr": lrs.tolist(),
            "decrease": drops.tolist(),
            "best": _finite.at(drops, best),
            "best_lr": _finite.at(lrs, best),
            "window": _window(lrs, drops, best),
            "area": float(torch.trapezoid(gains, log) / (log[-1] - log[0])),
            "edge": edge,
        }
        out |= _finite.counted(drops)
        if best is None:
            out["area"] = math.nan
        start = float(objective.heldout.value(params)) if objective.heldout else math.nan
        out |= self._heldout(objective, params, unit(grad), lrs, best, start)
        out |= self._null(objective, params, grad, lrs, value, start, generator)
        if self.reference is not None:
            truth = flatten(objective.reference(self.reference, params, at))
            _, ideal, _ = self._search(objective, params, unit(truth), value)
            furthest = _finite.most(ideal)
            out["ratio"] = _finite.at(drops, best) / furthest if furthest > 0 else math.nan
        layered = flatten({k: unit(g) for k, g in estimate.grad.items()})
        lrs, drops, _ = self._search(objective, params, unit(layered), value)
        best = _finite.best(drops)
        out["layerwise/best"] = _finite.at(drops, best)
        out["layerwise/best_lr"] = _finite.at(lrs, best)
        only, first = (lrs[:1], None) if best is None else (lrs[best : best + 1], 0)
        held = self._heldout(objective, params, unit(layered), only, first, start)
        out |= {f"layerwise/{k}": v for k, v in held.items() if k == "best_heldout"}
        return {f"descent/{k}": v for k, v in out.items()}

    def _search(
        self, objective: Objective, params: Params, along: Tensor, value: float
    ) -> tuple[Tensor, Tensor, float]:
        """Return (lrs, decreases, edge) of the grid, extended at its edges and refined once.

        If no loss is finite, the grid is neither extended nor refined.
        """
        low, high = math.log10(self.lr_min), math.log10(self.lr_max)
        lrs = torch.logspace(low, high, self.points, dtype=torch.float64)
        drops = value - line(objective, params, along, lrs)
        per_decade = max(2, round(self.points / (high - low)))
        for _ in range(self.extend):
            best = _finite.best(drops)
            if best not in (0, len(lrs) - 1):
                break
            steps = torch.arange(1, per_decade + 1, dtype=torch.float64) / per_decade
            more = lrs[best] * 10 ** (steps if best else -steps.flip(0))
            gained = value - line(objective, params, along, more)
            lrs = torch.cat([lrs, more] if best else [more, lrs])
            drops = torch.cat([drops, gained] if best else [gained, drops])
        best = _finite.best(drops)
        if best is None:
            return lrs, drops, math.nan
        if best in (0, len(lrs) - 1):
            return lrs, drops, 1.0
        fine = torch.logspace(
            float(lrs[best - 1].log10()), float(lrs[best + 1].log10()), 9, dtype=torch.float64
        )
        fine = torch.cat([fine[1:4], fine[5:8]])
        lrs = torch.cat([lrs, fine])
        drops = torch.cat([drops, value - line(objective, params, along, fine)])
        order = lrs.argsort()
        return lrs[order], drops[order], 0.0

    def _heldout(
        self, objective: Objective, params: Params, along: Tensor, lrs: Tensor, best: int | None,
        start: float,
    ) -> Numbers:  # fmt: skip
        """Return the decreases from ``start``, the held-out loss; {} without held-out data."""
        if objective.heldout is None:
            return {}
        held = start - line(objective.heldout, params, along, lrs)
        return {"decrease_heldout": held.tolist(), "best_heldout": _finite.at(held, best)}

    def _null(
        self, objective: Objective, params: Params, like: Tensor, lrs: Tensor, value: float,
        start: float, generator: torch.Generator,
    ) -> Numbers:  # fmt: skip
        """Return the decreases along random directions; held out too if there are such data."""
        draws = [
            unit(torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device))
            for _ in range(self.nulls)
        ]
        drops = torch.stack([value - line(objective, params, d, lrs) for d in draws])
        best = torch.tensor([_finite.most(one) for one in drops], dtype=torch.float64)
        each = zip(draws, map(_finite.best, drops), strict=True)
        held = [
            self._heldout(objective, params, d, lrs[k : k + 1], 0, start).get("best_heldout")
            for d, k in each
            if k is not None
        ]
        out: Numbers = {}
        if objective.heldout is not None:
            out["null_heldout"] = _finite.mean(torch.tensor(held, dtype=torch.float64))
        return out | {
            "null": [_finite.mean(x) for x in drops.T],
            "null_least": [-_finite.most(-x) for x in drops.T],
            "null_most": [_finite.most(x) for x in drops.T],
            "null_best": _finite.mean(best),
            "null_best_least": -_finite.most(-best),
            "null_best_most": _finite.most(best),
        }

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the best decrease, held out, and compared with reference and null, in words."""
        if "descent/best" not in result:
            return []
        best, lr, value = result["descent/best"], result["descent/best_lr"], result["value"]
        share = f" ({best / value:.1%} of the loss)" if value and best is not None else ""
        edge = "; ON THE GRID'S EDGE" if result.get("descent/edge") else ""
        text = f"{number(best)}{share} at lr {lr:.3g}" if lr is not None else "undefined"
        rows = [("best decrease", f"{text}{edge}")]
        rows.append(("  held out", number(result.get("descent/best_heldout"))))
        if result.get("descent/ratio") is not None:
            against = f"  against {_reference.called(self.reference)}"
            rows.append((against, f"x {result['descent/ratio']:.2f}"))
        if "descent/null_best" in result:
            null = f"{number(result['descent/null_best'])} (random directions)"
            rows.append(("  null", null))
        return rows


def _window(lrs: Tensor, drops: Tensor, best: int | None) -> float:
    """Return the decades of lr around the best in which every decrease is at least half of it."""
    if best is None:
        return math.nan
    if drops[best] <= 0:
        return 0.0
    enough = drops.isfinite() & (drops >= drops[best] / 2)
    below = (~enough).nonzero()[:, 0]
    first = int(below[below < best].max()) + 1 if (below < best).any() else 0
    last = int(below[below > best].min()) - 1 if (below > best).any() else len(lrs) - 1
    return float((lrs[last] / lrs[first]).log10())
