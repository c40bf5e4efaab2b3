"""Random binary units: the stochastic binary network (Williams 1992; Bengio et al. 2013)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sa import surrogate
from sa.network.structure import Step


@dataclass(frozen=True)
class Bernoulli:
    """q(a) = +1 with probability 1/(1 + exp(-a)), else -1, while an estimator samples.

    In evaluation, and with estimators that do not sample, q(a) is the most probable output: +1
    where a >= 0, else -1. E q(a) = tanh(a / 2).

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> Bernoulli()(x)  # where no estimator samples
    tensor([-1., -1.,  1.,  1.])
    """

    bits: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    @property
    def step(self) -> Step:
        """The most probable output as thresholds and levels, for the exact fast differences."""
        return Step((0.0,), (-1.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the signs drawn from logits x, any shape, elementwise."""
        return surrogate.bernoulli(x)
