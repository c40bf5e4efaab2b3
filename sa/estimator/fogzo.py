"""FOGZO: zeroth-order differences along random directions that lean on a surrogate gradient."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.objective.objective import Objective
from sa.params import size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class FOGZO:
    """1/(2 n sigma) sum (f(w + sigma v) - f(w - sigma v)) v, v = sqrt(beta) g^ + sqrt(1 - beta) u.

    First-Order-Guided Zeroth-Order gradient descent (Yang & Aamodt, NeurIPS 2025, "Improving the
    Straight-Through Estimator with Zeroth-Order Information", arXiv 2510.23926): g^ the unit
    surrogate gradient, u of independent coordinates with mean 0 and variance 1. On a locally linear
    loss with gradient g the mean is beta g^ g^'g + (1 - beta) g: the surrogate's part fades where
    it is orthogonal to g. Its projection on g is 1 - beta (1 - c0^2), c0 the surrogate's cosine.

    With beta > 0 the mean leans on the guide: no smoothed loss has this gradient.

    Established from the abstract and published notes on the method, the code not being at hand: the
    formulas above, n = 1, beta = 0.999 and its schedule. The random sign the paper gives g^ is left
    out: the pair's product is even in v and u is symmetric, so nothing depends on it. Its noises
    for other slopes are not offered; where the surrogate gradient is 0 beta is 0, our reading.

    Args:
        surrogate: slope used in place of the derivative of a step, one of the names of `ste`.
        sigma: length of a step, in the units of the weights; for u the size of one coordinate.
            epsilon in the paper.
        samples: n, antithetic pairs a call.
        beta: trust in the surrogate gradient: 1 follows it alone, 0 ignores it.
        anneal: true lets beta go linearly from 1 to its value over a training, as published.
        noise: distribution of u. ``uniform`` on [-sqrt 3, sqrt 3] is the smoothing that the
            identity slope of rounding and the clipped slope of sign stand for, at sigma 1/(2 sqrt
            3) resp. 1/sqrt 3 quantization steps; or ``gaussian``.

    """

    surrogate: _slopes.Name = "clipped"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 1
    beta: Annotated[float, Ge(0), Le(1)] = 0.999
    anneal: bool = False
    noise: Literal["uniform", "gaussian"] = "uniform"

    @property
    def target(self) -> str:
        """``none``; at beta = 0 ``cube`` with uniform noise, ``gaussian`` with gaussian."""
        if self.beta > 0:
            return "none"
        return "cube" if self.noise == "uniform" else "gaussian"

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2n + 3 evals."""
        value, guide = _guide.gradient(objective, params, self.surrogate, generator)
        beta = self.beta
        if self.anneal:
            beta = 1 - (1 - beta) * at.progress
        if not guide.any():
            beta = 0.0
        sound = 0
        lead, total = math.sqrt(beta) * _guide.unit(guide), torch.zeros_like(guide)
        for u in _directions.gaussian(self.samples, size(params), generator, guide):
            if self.noise == "uniform":  # the normal distribution function of a normal number
                u = math.sqrt(3) * torch.erf(u / math.sqrt(2))
            v = lead + math.sqrt(1 - beta) * u
            up, down = _guide.ends(objective, params, self.sigma * v)
            gap, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(v.dtype))
            total, sound = total + gap @ v, sound + int(ok.sum())
        grad = unflatten(_finite.mean(total, sound), params)
        info = {"beta": beta} | _finite.counted(self.samples - sound)
        return Estimate(value, grad, 2.0 * self.samples + 3, info=info)
