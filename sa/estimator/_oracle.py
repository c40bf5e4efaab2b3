"""The search for the lowest loss in a ball around the point that `snes`, `xnes` and `cma` share."""

import math

import torch
from torch import Tensor

from sa.estimator import _finite
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Estimate, Numbers, Params


class Search:
    """A search that projects displacements onto a ball, evaluates them, and remembers the best.

    A displacement whose loss is not finite ranks last and is never the best. ``sound`` is how many
    displacements of the last call have a finite loss.
    """

    def __init__(self, objective: Objective, params: Params, radius: float):
        self.objective, self.params, self.radius = objective, params, radius
        self.at = flatten(params)
        self.value = objective.value(params)
        self.evals, self.best, self.lowest = 1.0, torch.zeros_like(self.at), self.value
        self.sound, self.left_out = 0, 0

    def inside(self, moves: Tensor) -> Tensor:
        """Return moves (..., D) projected onto the ball."""
        return moves * (self.radius / moves.norm(dim=-1, keepdim=True)).clamp(max=1.0)

    def __call__(self, moves: Tensor) -> Tensor:
        """Evaluate moves (n, D); return their order (n,), lowest loss first."""
        moves = self.inside(moves)
        losses = self.objective.values(unflatten(self.at + moves, self.params))
        ok = losses.isfinite()
        self.evals, self.sound = self.evals + len(moves), int(ok.sum())
        self.left_out += len(moves) - self.sound
        order = torch.where(ok, losses, torch.inf).argsort(stable=True)
        if self.sound and losses[order[0]] < self.lowest:
            self.best, self.lowest = moves[order[0]], losses[order[0]]
        return order

    def estimate(self) -> Estimate:
        """Return minus the best displacement: 0 if none lowers the loss, NaN if all diverged."""
        if self.left_out and self.left_out == self.evals - 1:
            self.best = torch.full_like(self.best, torch.nan)
        info: Numbers = {"decrease": float(self.value - self.lowest)}
        info["length"] = float(self.best.norm())
        info |= _finite.counted(self.left_out)
        return Estimate(self.value, unflatten(-self.best, self.params), self.evals, info=info)


def population(count: int | None, dim: int) -> int:
    """Return the points of a generation: count, or 4 + floor(3 log D) if it is None."""
    return count or 4 + int(3 * math.log(max(1, dim)))


def utilities(count: int, like: Tensor) -> Tensor:
    """Return the weights (n,) of the ranks, best first, of sum 0 (Wierstra et al., CEC 2008)."""
    rank = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
    u = (math.log(count / 2 + 1) - rank.log()).clamp(min=0)
    return u / u.sum() - 1 / count
