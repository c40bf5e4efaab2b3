"""Natural evolution strategies: the gradient of the gaussian-smoothed loss from loss values."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _scale, _shaping
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class NES:
    """(1/(N sigma)) sum_n f(w + sigma e_n) e_n, e ~ N(0, I) (Wierstra 2008; Salimans et al. 2017).

    Unbiased for the gradient of f_sigma(w) = E f(w + sigma e). Variants:

    antithetic (default): (1/(2 N sigma)) sum (f(w + sigma e) - f(w - sigma e)) e over N pairs. On
    a linear loss the relative variance is (D + 1)/N and the expected cosine sqrt(N/(N + D + 1)).
    Orthogonal directions estimate another gradient, that of f smoothed over the ball of radius
    sigma sqrt(D) (target ``ball``), which tends to the gaussian one as D grows; on a linear loss
    cosine sqrt(N/D), exact at N = D, and N/sqrt(N^2 + r (D - r)) beyond.

    With shaping no outlier dominates, the loss' scale is lost, and no fixed loss has this gradient
    (target ``none``). On a linear loss ranks have, for large N, the mean g/(|g| sigma 2 sqrt(pi))
    and the expected cosine sqrt(N/(N + pi D/3 + 2/sqrt(3) - 1)).

    Info ``flat``: the share of the directions without any difference; ``nonfinite``: how many were
    left out.

    Args:
        sigma: standard deviation of the smoothing, in the units of the weights. ``auto`` finds it
            at the first call: the largest of a grid (1e-4 to 1) whose smoothing gap |f_sigma - f|
            stays below ``gap`` times |f|, at 64 evals a value tried; it is then kept in the state.
        samples: N, directions a call; pairs where antithetic. A direction with a loss that is not
            finite is left out: N counts the others.
        antithetic: true evaluates w + sigma e and w - sigma e for every direction, false w + sigma
            e alone.
        baseline: what is subtracted from the losses, not antithetic. ``none`` is a negative
            control: its variance carries f(w)^2 D/sigma^2. ``loss`` subtracts f(w); ``mean`` the
            sample mean times N/(N - 1), which is exactly the leave-one-out baseline.
        orthogonal: true draws directions of length sqrt(D), orthogonal in sets of D; the last set
            is cut where D does not divide N (info ``cut``: its directions, r).
        shaping: ``ranks`` (centred, Salimans 2017) or ``utilities`` (Wierstra 2008) put the order
            of the losses in their place; ``none`` takes the losses.
        gap: largest smoothing gap that sigma=auto allows, as a share of |f|.

    """

    sigma: _scale.Sigma = 0.1
    samples: Annotated[int, Gt(0)] = 500
    antithetic: bool = True
    baseline: Literal["none", "loss", "mean"] = "none"
    orthogonal: bool = False
    shaping: Literal["none", "ranks", "utilities"] = "none"
    gap: Annotated[float, Gt(0)] = 0.02

    @model_validator(mode="after")
    def _meaningful(self) -> "NES":
        if self.antithetic and self.baseline != "none":
            raise ValueError(
                f"baseline={self.baseline} cancels in antithetic pairs; set antithetic=false or "
                "baseline=none"
            )
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline=mean needs samples >= 2")
        if self.shaping != "none" and self.baseline != "none":
            raise ValueError(f"shaping={self.shaping} is centred already; set baseline=none")
        if self.shaping != "none" and self.samples < 2:
            raise ValueError(f"shaping={self.shaping} needs samples >= 2")
        return self

    @property
    def target(self) -> str:
        """``gaussian``, ``ball`` with orthogonal directions, ``none`` where the loss is shaped."""
        if self.shaping != "none":
            return "none"
        return "ball" if self.orthogonal else "gaussian"

    def init(self, params: Params) -> State:
        """No state before the first call."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2N + 1 evals antithetic, else N + 1. Memory holds one block of directions."""
        dim, w, n = size(params), flatten(params), self.samples
        value = objective.value(params)
        sigma, searched, info = self._sigma(objective, params, value, state, generator, at)
        draw = _directions.orthogonal if self.orthogonal else _directions.gaussian

        def measure(e: Tensor) -> Tensor:  # losses (2, k) of pairs, or (1, k)
            ends = [w + sigma * e, w - sigma * e] if self.antithetic else [w + sigma * e]
            return torch.stack([_directions.losses(objective, params, x) for x in ends])

        if self.shaping == "none":
            total, flat, sound = self._sum(draw, measure, objective, value, w, generator)
        else:
            total, seen = _directions.weighed(draw, n, w, generator, measure, self._weights)
            flat, sound = _flat(seen, value), int(seen.isfinite().all(0).sum())
        info |= {"flat": flat / max(1, sound)} | _finite.counted(n - sound) | self._law(dim)
        evals = (2 if self.antithetic else 1) * n + 1 + searched
        kept = {"sigma": sigma} if self.sigma == "auto" else {}
        grad = unflatten(_finite.mean(total, sound, sigma), params)
        return Estimate(value, grad, evals, kept, info)

    def _sum(
        self, draw: _directions.Draw, measure: Callable[[Tensor], Tensor], objective: Objective,
        value: Tensor, w: Tensor, generator: torch.Generator,
    ) -> tuple[Tensor, int, int]:  # fmt: skip
        """Sum of loss * e (D,), less the baseline's; how many directions are flat; how many count.

        Those count whose losses are finite; those of them are flat that saw no difference.
        """
        total, plain = torch.zeros_like(w), torch.zeros_like(w)  # sums of loss * e and of e
        seen = torch.zeros((), dtype=torch.float64)  # sum of losses
        flat, sound = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        sums = {"total": total, "plain": plain, "seen": seen, "flat": flat, "sound": sound}
        for e in _directions.kept(draw, self.samples, w, generator, objective, sums):
            each = measure(e)
            flat += _flat(each, value)
            if self.antithetic:
                up = (each[0] - each[1]) / 2
            else:  # for the mean baseline this only saves digits
                up = each[0] - value if self.baseline != "none" else each[0]
            ok = up.to(w.dtype).isfinite()
            up = torch.where(ok, up, 0.0)
            total += up.to(w.dtype) @ e
            plain += torch.where(ok.unsqueeze(1), e, 0.0).sum(0)
            seen += float(up.sum())
            sound += int(ok.sum())
        n = int(sound)
        if self.baseline == "mean":  # sum (f - mean) e / (N - 1) = the leave-one-out estimate
            total = _finite.mean((total - float(seen) / max(1, n) * plain) * n, n - 1 if n else 0)
        return total, int(flat), n

    def _weights(self, seen: Tensor) -> Tensor:
        """Shaped over all losses (2, N) or (1, N), then halved differences where antithetic.

        Directions with a loss that is not finite have no rank, and weight 0.
        """
        ok, u = seen.isfinite().all(0), torch.zeros_like(seen)
        ranked = seen[:, ok]
        u[:, ok] = _shaping.SHAPINGS[self.shaping](ranked.flatten()).view_as(ranked)
        return (u[0] - u[1]) / 2 if self.antithetic else u[0]

    def _sigma(
        self, objective: Objective, params: Params, value: Tensor, state: State,
        generator: torch.Generator, at: Moment,
    ) -> tuple[float, float, Numbers]:  # fmt: skip
        """The smoothing length, the evals its choice cost, and what there is to tell."""
        if self.sigma != "auto":
            _scale.require("sigma", self.sigma, params, at)
            return self.sigma, 0.0, {}
        if "sigma" in state:
            return state["sigma"], 0.0, {"sigma": state["sigma"]}
        w = flatten(params)
        e = next(_directions.gaussian(_scale.DRAWS, len(w), generator, w))
        sigma, gap, evals = _scale.choose(objective, params, value, self.gap, e)
        return sigma, evals, {"sigma": sigma, "gap": gap}

    def _law(self, dim: int) -> Numbers:
        """The cosine a linear loss would give, where a law is known without the loss' scale."""
        n, rest = self.samples, self.samples % max(1, dim)
        cut: Numbers = {"cut": float(rest)} if self.orthogonal and n > dim and rest else {}
        if self.shaping == "ranks" and not self.orthogonal:
            return {"cosine_expected": math.sqrt(n / (n + math.pi * dim / 3 + 2 / 3**0.5 - 1))}
        if not self.antithetic or self.shaping != "none":
            return cut
        if self.orthogonal:
            return {"cosine_expected": n / math.sqrt(n * n + rest * (dim - rest))} | cut
        return {"cosine_expected": math.sqrt(n / (n + dim + 1))}


def _flat(losses: Tensor, value: Tensor) -> int:
    """How many directions saw no difference: between the ends of a pair, or to the point."""
    other = losses[1] if len(losses) == 2 else value
    return int(((losses[0] == other) & losses[0].isfinite()).sum())
