"""The random proxy: a straight-through estimator whose slope is drawn anew at every call."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.estimator import _finite, _slopes
from sa.estimator._base import Method
from sa.objective.objective import Objective
from sa.params import finite
from sa.surrogate import Rule
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class STERandom(Method):
    """dL/da = m(a) dL/ds for every step s of a, one random m for all steps of a backward.

    No loss has this gradient (target ``surrogate``). Its mean is not the gradient of the mean slope
    either, because every step multiplies by the same m. With one slope, no clip and no noise it is
    `ste`. It is a control of this project, not a published method.

    >>> from sa.objective.function import from_function
    >>> f = from_function(lambda p: surrogate.sign(p["w"]).sum())
    >>> at = {"w": torch.tensor([0.5, -3.0])}
    >>> STERandom(("clipped",))(f, at, {}, torch.Generator()).grad["w"]
    tensor([1., 0.])

    >>> import sa, torch
    >>> loss = sa.loss(lambda p: sa.sign(p["w"]).sum(), params={"w": torch.tensor([0.5, -3.0])})
    >>> sa.STERandom(surrogates=("clipped", "tanh"), samples=4)(loss, seed=0).evals
    12.0

    Args:
        surrogates: slopes of `ste` with their usual scales, at least one. Each backward pass takes
            one of them, all equally likely; a name given twice is twice as likely.
        clip: m is also 0 if |a| > c, with c uniform in (0, clip); null for no such window. The mean
            of the identity over such windows is max(0, 1 - |a| / clip).
        noise: standard deviation of a random factor of m, 1 + noise sqrt(2) cos(u a + v), u
            standard normal, v uniform in (0, 2 pi). Its mean is 1. Equal a have equal factors, so
            the split into chunks changes nothing.
        samples: backward passes that a call averages over.

    """

    target: ClassVar[str] = "surrogate"
    surrogates: tuple[_slopes.Name, ...] = ("clipped", "tanh", "poly", "swish")
    clip: Annotated[float, Gt(0)] | None = None
    noise: Annotated[float, Ge(0)] = 0.0
    samples: Annotated[int, Gt(0)] = 1

    @model_validator(mode="after")
    def _meaningful(self) -> "STERandom":
        if not self.surrogates:
            raise ValueError(
                "surrogates=[] has no slope to draw; type e.g. "
                f"'estimator.surrogates=[clipped,poly]'; there are: {', '.join(_slopes.SURROGATES)}"
            )
        return self

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 1F + 1B a sample: 3 evals each."""
        grad, left_out = {k: torch.zeros_like(v) for k, v in params.items()}, 0
        for _ in range(self.samples):
            with surrogate.backward(self._draw(at.progress, generator)):
                value, one = objective.value_and_grad(params, generator=generator)
            if not finite(one):
                left_out += 1
                continue
            for name, g in one.items():
                grad[name] += g / self.samples
        if left_out:  # the mean is over the other samples
            share = self.samples - left_out, 1 / self.samples
            grad = {k: _finite.mean(g, *share) for k, g in grad.items()}
        return Estimate(value, grad, 3.0 * self.samples, info=_finite.counted(left_out))

    def _draw(self, progress: float, generator: torch.Generator) -> Rule:
        """Return a random multiplier, the same for all steps of a backward pass."""
        device = generator.device
        which, c, v = torch.rand(
            3, generator=generator, dtype=torch.float64, device=device
        ).tolist()
        u = float(torch.randn((), generator=generator, dtype=torch.float64, device=device))
        slope = _slopes.rule(self.surrogates[int(which * len(self.surrogates))], None, progress)

        def rule(a: Tensor) -> Tensor:
            m = slope(a)
            if self.clip is not None:
                m = m * (a.abs() <= c * self.clip)
            if self.noise:
                m = m * (1 + self.noise * math.sqrt(2) * torch.cos(u * a + 2 * math.pi * v))
            return m

        return rule
