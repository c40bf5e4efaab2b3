"""FOGZO: zeroth-order differences along random directions near a surrogate gradient."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from sa.estimator import _directions, _finite, _guide, _slopes
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class FOGZO(Method):
    """1/(2 n sigma) sum (f(w + sigma v) - f(w - sigma v)) v, v = sqrt(beta) g^ + sqrt(1 - beta) u.

    The name is short for first-order-guided zeroth-order gradient descent. g^ is the surrogate
    gradient scaled to length 1; the coordinates of u are independent, with mean 0 and variance 1.
    On a locally linear loss with gradient g the mean is beta g^ g^'g + (1 - beta) g: the
    surrogate's part vanishes if it is orthogonal to g. The projection of the mean on g is
    1 - beta (1 - c0^2), c0 the surrogate's cosine. With beta > 0 no smoothed loss has this gradient
    (target ``none``). At beta = 0 the target is ``cube`` with uniform noise and ``gaussian`` with
    gaussian noise.

    It is implemented from the abstract and published notes, without the authors' code. From there
    are the formulas above, n = 1, beta = 0.999 and its schedule. The paper's random sign of g^ is
    left out, because the product is even in v and u is symmetric, so nothing depends on it. The
    paper's noises for other slopes are not implemented. If the surrogate gradient is 0, beta is 0;
    that is our choice.

    Paper: Yang & Aamodt, "Improving the Straight-Through Estimator with Zeroth-Order Information",
    NeurIPS 2025, arXiv 2510.23926.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sa.FOGZO(samples=1)(bowl, seed=0).evals
    5.0

    Args:
        surrogate: slope used in place of the derivative of a step, one of the names of `ste`.
        sigma: length of a step, in the units of the weights; for u the size of one coordinate.
            epsilon in Yang & Aamodt 2025.
        samples: n, antithetic pairs a call.
        beta: trust in the surrogate gradient, in [0, 1]: 1 follows it alone, 0 ignores it.
        anneal: true moves beta linearly from 1 to its value over a training, as published.
        noise: distribution of u: ``gaussian``, or ``uniform`` on [-sqrt 3, sqrt 3]. Uniform noise
            is the smoothing that the identity slope of rounding and the clipped slope of sign stand
            for, at sigma = 1/(2 sqrt 3) and 1/sqrt 3 quantization steps.

    """

    surrogate: _slopes.Name = "clipped"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 1
    beta: Annotated[float, Ge(0), Le(1)] = 0.999
    anneal: bool = False
    noise: Literal["uniform", "gaussian"] = "uniform"

    @property
    def target(self) -> str:
        """Return the target: ``none``; at beta = 0 ``cube`` (uniform noise) or ``gaussian``."""
        if self.beta > 0:
            return "none"
        return "cube" if self.noise == "uniform" else "gaussian"

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2n + 3 evals."""
        value, guide = _guide.gradient(objective, params, self.surrogate, generator)
        beta = self.beta
        if self.anneal:
            beta = 1 - (1 - beta) * at.progress
        if not guide.any():
            beta = 0.0
        sound = 0
        lead, total = math.sqrt(beta) * _guide.unit(guide), torch.zeros_like(guide)
        for u in _directions.gaussian(self.samples, size(params), generator, guide):
            if self.noise == "uniform":  # the distribution function of u is uniform
                u = math.sqrt(3) * torch.erf(u / math.sqrt(2))
            v = lead + math.sqrt(1 - beta) * u
            up, down = _guide.pair_losses(objective, params, self.sigma * v)
            gap, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(v.dtype))
            total, sound = total + gap @ v, sound + int(ok.sum())
        grad = unflatten(_finite.mean(total, sound), params)
        info = {"beta": beta} | _finite.counted(self.samples - sound)
        return Estimate(value, grad, 2.0 * self.samples + 3, info=info)
