"""Searches for the lowest loss within a ball around the point: what evolution oracles share."""

import math

import torch
from torch import Tensor

from sa.estimator import _finite
from sa.objective.objective import Objective
from sa.params import flatten, unflatten
from sa.types import Estimate, Numbers, Params


class Search:
    """Evaluates displacements, each projected onto the ball of a radius, and keeps the best.

    A displacement whose loss is not finite is never the best and ranks last. ``sound``: how many of
    the last ones have a finite loss.
    """

    def __init__(self, objective: Objective, params: Params, radius: float):
        self.objective, self.params, self.radius = objective, params, radius
        self.at = flatten(params)
        self.value = objective.value(params)
        self.evals, self.best, self.lowest = 1.0, torch.zeros_like(self.at), self.value
        self.sound, self.left_out = 0, 0

    def inside(self, moves: Tensor) -> Tensor:
        """The closest point of the ball, for moves (..., D)."""
        return moves * (self.radius / moves.norm(dim=-1, keepdim=True)).clamp(max=1.0)

    def __call__(self, moves: Tensor) -> Tensor:
        """The order (n,) of moves (n, D), the one of lowest loss first."""
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
        """-(best displacement): 0 where nothing was better than staying, NaN where all diverged."""
        if self.left_out and self.left_out == self.evals - 1:
            self.best = torch.full_like(self.best, torch.nan)
        info: Numbers = {"decrease": float(self.value - self.lowest)}
        info["length"] = float(self.best.norm())
        info |= _finite.counted(self.left_out)
        return Estimate(self.value, unflatten(-self.best, self.params), self.evals, info=info)


def population(count: int | None, dim: int) -> int:
    """Points a generation: 4 + floor(3 log D) by default."""
    return count or 4 + int(3 * math.log(max(1, dim)))


def utilities(count: int, like: Tensor) -> Tensor:
    """Weights (n,) of the ranks, best first, that sum to 0 (Wierstra et al. 2008)."""
    rank = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
    u = (math.log(count / 2 + 1) - rank.log()).clamp(min=0)
    return u / u.sum() - 1 / count
