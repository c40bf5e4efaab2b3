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
from sa.estimator._base import Laws, Method
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class NES(Method):
    """(1/(N sigma)) sum_n f(w + sigma e_n) e_n, e ~ N(0, I) (Wierstra 2008; Salimans et al. 2017).

    It is unbiased for the gradient of the gaussian-smoothed loss f_sigma(w) = E f(w + sigma e)
    (target ``gaussian``). It has these variants:

    Antithetic pairs (default) give (1/(2 N sigma)) sum (f(w + sigma e) - f(w - sigma e)) e over N
    pairs. On a linear loss the relative variance is (D + 1)/N, and the expected cosine is
    sqrt(N/(N + D + 1)).

    Orthogonal directions have another target: the gradient of f smoothed over the ball of radius
    sigma sqrt(D) (target ``ball``), which tends to the gaussian one as D grows. On a linear loss
    the expected cosine is sqrt(N/D) up to N = D, where the estimate is exact, and N/sqrt(N^2 + r (D
    - r)) beyond.

    With shaping, outliers do not dominate, but the scale of the loss is lost and no fixed loss has
    this gradient (target ``none``). On a linear loss ranks have, for large N, the mean g/(|g| sigma
    2 sqrt(pi)) and the expected cosine sqrt(N/(N + pi D/3 + 2/sqrt(3) - 1)).

    The row also holds ``flat``, the share of directions whose losses do not differ, and
    ``nonfinite``, how many directions were left out.

    Papers: Wierstra et al., CEC 2008 and JMLR 2014; Salimans et al., "Evolution strategies as a
    scalable alternative to reinforcement learning", arXiv 1703.03864, 2017.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.NES(sigma=0.1, samples=20)(bowl, seed=0).evals
    41.0
    >>> sa.NES(antithetic=False, baseline="mean", samples=20)(bowl, seed=0).evals
    21.0

    Args:
        sigma: standard deviation of the smoothing, in the units of the weights. ``auto`` chooses it
            at the first call and then keeps it: the largest value of a grid (1e-4 to 1) whose
            smoothing gap |f_sigma - f| is below ``gap`` times |f|. Each value tried costs 64 evals.
        samples: N, directions a call; if antithetic, pairs. A direction with a loss that is not
            finite is left out: N counts the other directions.
        antithetic: true evaluates w + sigma e and w - sigma e for every direction; false evaluates
            w + sigma e alone.
        baseline: value subtracted from the losses if antithetic=false. ``none`` is a negative
            control: its variance holds f(w)^2 D/sigma^2. ``loss`` subtracts f(w). ``mean``
            subtracts the mean of the sample and multiplies by N/(N - 1), which is exactly the
            leave-one-out baseline.
        orthogonal: true draws directions of length sqrt(D), orthogonal in sets of D. If D does not
            divide N, the last set has only r directions (``cut`` in the row).
        shaping: ``none`` uses the losses. ``ranks`` (centred, Salimans et al. 2017) and
            ``utilities`` (Wierstra et al. 2008) use weights that depend on their order alone.
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
                f"baseline={self.baseline} cancels in antithetic pairs; set antithetic=false, or "
                "baseline=none"
            )
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline=mean needs samples >= 2")
        if self.shaping != "none" and self.baseline != "none":
            raise ValueError(f"shaping={self.shaping} has mean 0 already; set baseline=none")
        if self.shaping != "none" and self.samples < 2:
            raise ValueError(f"shaping={self.shaping} needs samples >= 2")
        return self

    @property
    def target(self) -> str:
        """Return the target: ``gaussian``, ``ball`` if orthogonal, ``none`` with shaping."""
        if self.shaping != "none":
            return "none"
        return "ball" if self.orthogonal else "gaussian"

    @property
    def laws(self) -> Laws:
        """Return the laws that shaping, or no baseline, breaks."""
        if self.shaping != "none":
            order = "it uses the order of the losses, without their scale"
            return {"unbiased": order, "scale": order}
        if self.antithetic or self.baseline != "none":
            return {}
        return {"constant": "baseline=none subtracts nothing: a negative control"}

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2N + 1 evals if antithetic, else N + 1.

        Only one chunk of directions is in memory.
        """
        dim, w, n = size(params), flatten(params), self.samples
        value = objective.value(params)
        sigma, searched, info = self._sigma(objective, params, value, state, generator, at)
        draw = _directions.orthogonal if self.orthogonal else _directions.gaussian

        def measure(e: Tensor) -> Tensor:  # losses (2, k) of pairs, or (1, k)
            points = [w + sigma * e, w - sigma * e] if self.antithetic else [w + sigma * e]
            return torch.stack([_directions.losses(objective, params, x) for x in points])

        if self.shaping == "none":
            total, flat, sound = self._sum(draw, measure, objective, value, w, generator)
        else:
            total, losses = _directions.weighed(draw, n, w, generator, measure, self._weights)
            flat, sound = _flat(losses, value), int(losses.isfinite().all(0).sum())
        info |= {"flat": flat / max(1, sound)} | _finite.counted(n - sound) | self._law(dim)
        evals = (2 if self.antithetic else 1) * n + 1 + searched
        after = {"sigma": sigma} if self.sigma == "auto" else {}
        grad = unflatten(_finite.mean(total, sound, sigma), params)
        return Estimate(value, grad, evals, after, info)

    def _sum(
        self, draw: _directions.Draw, measure: Callable[[Tensor], Tensor], objective: Objective,
        value: Tensor, w: Tensor, generator: torch.Generator,
    ) -> tuple[Tensor, int, int]:  # fmt: skip
        """Return sum (loss - baseline) e (D,), how many directions are flat, and how many count.

        A direction counts if its losses are finite. It is flat if they do not differ.
        """
        total, plain = torch.zeros_like(w), torch.zeros_like(w)  # sums of loss * e and of e
        level = torch.zeros((), dtype=torch.float64)  # sum of losses
        flat, sound = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        sums = {"total": total, "plain": plain, "seen": level, "flat": flat, "sound": sound}
        for e in _directions.resumable(draw, self.samples, w, generator, objective, sums):
            each = measure(e)
            flat += _flat(each, value)
            if self.antithetic:
                up = (each[0] - each[1]) / 2
            else:  # for the mean baseline this only reduces rounding
                up = each[0] - value if self.baseline != "none" else each[0]
            ok = up.to(w.dtype).isfinite()
            up = torch.where(ok, up, 0.0)
            total += up.to(w.dtype) @ e
            plain += torch.where(ok.unsqueeze(1), e, 0.0).sum(0)
            level += float(up.sum())
            sound += int(ok.sum())
        n = int(sound)
        if self.baseline == "mean":  # sum (f - mean) e / (N - 1) = the leave-one-out estimate
            total = _finite.mean((total - float(level) / max(1, n) * plain) * n, n - 1 if n else 0)
        return total, int(flat), n

    def _weights(self, losses: Tensor) -> Tensor:
        """Return the weights (N,) of directions with losses (2, N) of pairs, or (1, N).

        All losses are shaped together. A pair has half the difference of its two shaped losses. A
        direction with a loss that is not finite has no rank and weight 0.
        """
        ok, u = losses.isfinite().all(0), torch.zeros_like(losses)
        ranked = losses[:, ok]
        u[:, ok] = _shaping.SHAPINGS[self.shaping](ranked.flatten()).view_as(ranked)
        return (u[0] - u[1]) / 2 if self.antithetic else u[0]

    def _sigma(
        self, objective: Objective, params: Params, value: Tensor, state: State,
        generator: torch.Generator, at: Moment,
    ) -> tuple[float, float, Numbers]:  # fmt: skip
        """Return the smoothing length, the evals that its choice cost, and numbers to record."""
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
        """Return the expected cosine on a linear loss, if it does not depend on the loss' scale."""
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
    """Return how many directions have no difference: within the pair, or to the loss at w."""
    other = losses[1] if len(losses) == 2 else value
    return int(((losses[0] == other) & losses[0].isfinite()).sum())
