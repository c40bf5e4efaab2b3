"""FOGZO: zeroth-order differences along random directions near a surrogate gradient."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _directions, _finite, _guide, _matched, _slopes
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, size, unflatten
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class FOGZO(Method):
    """1/(2 n sigma) sum (f(w + sigma v) - f(w - sigma v)) v, v = sqrt(beta) g^ + sqrt(1 - beta) u.

    The name is short for first-order-guided zeroth-order gradient descent. g^ is the surrogate
    gradient scaled to length 1; the coordinates of u are independent, with mean 0 and variance 1.
    On a locally linear loss with gradient g the mean is beta g^ g^'g + (1 - beta) g: the
    surrogate's part vanishes if it is orthogonal to g. The projection of the mean on g is
    1 - beta (1 - c0^2), c0 the surrogate's cosine. With beta > 0 no smoothed loss has this gradient
    (target ``none``). At a constant beta = 0 the target is ``cube`` with uniform noise,
    ``gaussian`` with gaussian noise, and ``none`` with matched noise, whose widths differ.

    It is implemented from the abstract and published notes, without the authors' code. From there
    are the formulas above, n = 1, beta = 0.999 and its schedule. The paper's random sign of g^ is
    left out, because the product is even in v and u is symmetric, so nothing depends on it. If the
    surrogate gradient is 0, beta is 0; that is our choice.

    ``noise=matched`` takes the density p whose smoothing E s(w + r u) of a step s has the surrogate
    as its slope. A quantized weight moves by r v, with r the width of that smoothing in its layer.
    In the coordinates w/r the formulas are those above with sigma = 1, so the surrogate's part
    keeps the direction of its gradient. The mean of the u part is a slope too, smoothed with
    the density K(t) = integral of s p(s) from t on, which is a parabola for uniform noise. The
    paper gives a noise for each slope; the formulas here are ours, from the theorem above.

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
        beta: trust in the surrogate gradient, in [0, 1]: 1 follows it alone, 0 ignores it. A
            constant 0 takes no surrogate gradient and is n-SPSA, with the noise below.
        anneal: true moves beta linearly from 1 to its value over a training, as published.
        noise: distribution of u: ``gaussian``, or ``uniform`` on [-sqrt 3, sqrt 3]; or ``matched``,
            which takes the distribution from the surrogate, and for quantized weights its width,
            too. Other parameters keep the length sigma. Matched widths are 1/sqrt 3 for the clipped
            slope of a sign, pi/sqrt 12 for tanh, 1/sqrt 6 for poly, and 1/(2 sqrt 3) quantization
            steps for the identity slope of a rounding.

    """

    surrogate: _slopes.Name = "clipped"
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Gt(0)] = 1
    beta: Annotated[float, Ge(0), Le(1)] = 0.999
    anneal: bool = False
    noise: Literal["uniform", "gaussian", "matched"] = "uniform"

    @property
    def target(self) -> str:
        """Return the target: ``none``; at a constant beta = 0 ``gaussian`` or ``cube``."""
        if self.beta > 0 or self.anneal or self.noise == "matched":
            return "none"
        return "gaussian" if self.noise == "gaussian" else "cube"

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if the noise is matched and the slope or the network does not fit."""
        if self.noise != "matched":
            return
        _matched.density(self.surrogate)
        if not any(k.endswith(".weight") for k in structure.quantized):
            raise ValueError(
                "noise=matched takes its width from quantized weights, and this network has none; "
                "set estimator.noise=uniform, or quantize weights, e.g. quantizer/weight=sign"
            )

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2n + 3 evals, or 2n + 1 without a surrogate gradient."""
        beta = 1 - (1 - self.beta) * at.progress if self.anneal else self.beta
        if guided := self.beta > 0 or self.anneal:
            value, guide = _guide.gradient(objective, params, self.surrogate, generator)
        else:
            value, guide = objective.value(params), torch.zeros_like(flatten(params))
        if not guide.any():
            beta = 0.0
        noise, r = self._noise(objective, params)
        sound = 0
        lead, total = math.sqrt(beta) * _guide.unit(r * guide), torch.zeros_like(guide)
        whole = self.noise != "matched"
        for u in _directions.gaussian(self.samples, size(params), generator, guide, whole):
            v = lead + math.sqrt(1 - beta) * noise(u)
            up, down = _guide.pair_losses(objective, params, self.sigma * r * v)
            gap, ok = _finite.sound(((up - down) / (2 * self.sigma)).to(v.dtype))
            total, sound = total + gap @ v, sound + int(ok.sum())
        grad = unflatten(_finite.mean(total / r, sound), params)
        info = {"beta": beta} | _finite.counted(self.samples - sound)
        evals = 2.0 * self.samples + (3 if guided else 1)
        return Estimate(value, grad, evals, info=info)

    def _noise(self, objective: Objective, params: Params) -> tuple[_matched.Draw, Tensor | float]:
        """Return the function from normal numbers (k, D) to u, and the widths r/sigma, (D,)."""
        match self.noise:
            case "gaussian":
                return lambda u: u, 1.0
            case "uniform":
                return _matched.uniform, 1.0
        draw, std = _matched.density(self.surrogate)
        halves = _matched.half_steps(objective, params, self.surrogate)
        widths = {k: torch.ones_like(p) for k, p in params.items()}
        widths |= {k: half * std / self.sigma * widths[k] for k, half in halves.items()}
        return draw, flatten(widths)
