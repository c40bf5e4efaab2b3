"""Random signs with probabilities by a hard sigmoid (BinaryConnect; Courbariaux et al. 2015)."""

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network.codes import Term, Terms
from sa.network.structure import Step
from sa.types import STRICT


@dataclass(frozen=True, config=STRICT)
class BinaryConnectSto:
    """P(q(x) = +1) = clip((x + 1)/2, 0, 1) while an estimator samples: E q(x) = clip(x, -1, 1).

    In evaluation, and with estimators that do not sample, q(x) = +1 where x >= 0, else -1. The
    paper's backward is the surrogate 1[|x| <= 1].

    >>> import torch
    >>> x = torch.tensor([-2.0, -0.5, 0.2, 1.0])
    >>> BinaryConnectSto()(x)  # where no estimator samples
    tensor([-1., -1.,  1.,  1.])
    """

    bits: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    @property
    def step(self) -> Step:
        """The most probable output as thresholds and levels, for the exact fast differences."""
        return Step((0.0,), (-1.0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the signs drawn for x, any shape, elementwise."""
        most = 1 - torch.finfo(x.dtype).eps  # so that logits are finite
        return surrogate.bernoulli(2 * torch.atanh(x.clamp(-most, most)), x)

    def coded(self, x: Tensor) -> Terms:
        """Return the signs, with scale 1."""
        return (Term(self(x)),)
