"""A quantizer with parameters of its own, one set for every layer."""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from sa.codes import Term, Terms

Rate = Annotated[float, Gt(0)] | None
Decay = Annotated[float, Ge(0)] | None


class Parametric(Protocol):
    """A quantizer that is given its parameters, by name."""

    @property
    def lr(self) -> float | None:
        """Their learning rate; None: that of the other parameters."""
        ...

    @property
    def decay(self) -> float | None:
        """Their weight decay, likewise."""
        ...

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """What the parameters start from, given the first tensor."""
        ...

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """Quantize a tensor with the parameters."""
        ...


@runtime_checkable
class _Coder(Protocol):
    def coded(self, x: Tensor, *args: Any, **kwargs: Any) -> Terms: ...


@runtime_checkable
class _Stepped(Protocol):
    def step_size(self, *args: Any, **kwargs: Any) -> Tensor | None: ...


class Learned(nn.Module):
    """y = spec(x, **parameters), where they belong to the layer and move as parameters do.

    They start from the first tensor observed, which ``observing`` allows, once at the start; until
    then from ``like``, the layer's weights, if any. ``group`` is what their optimizer group sets: a
    learning rate and a weight decay of their own.
    """

    def __init__(self, spec: Parametric, like: Tensor | None, **given: Any):
        super().__init__()
        self.spec, self.given, self.observing = spec, given, False
        some = torch.ones(1, dtype=torch.float64) if like is None else like.detach()
        self.names = list(start := spec.start(some))
        for name, value in start.items():
            self.register_parameter(name, nn.Parameter(value.reshape(1)))
        self.register_buffer("seen", torch.tensor(False))
        self.seen: Tensor

    @property
    def group(self) -> dict[str, float]:
        """Settings of the optimizer for these parameters; what is left out is as for the rest."""
        own = {"lr": self.spec.lr, "weight_decay": self.spec.decay}
        return {k: v for k, v in own.items() if v is not None}

    @property
    def stochastic(self) -> bool:
        """Whether it is random while an estimator samples."""
        return getattr(self.spec, "stochastic", False)

    @property
    def coupled(self) -> bool:
        """Whether a row's output depends on the other rows."""
        return getattr(self.spec, "coupled", False)

    @property
    def observes(self) -> bool:
        """Whether there is anything to see yet."""
        return not self.seen

    def extra_repr(self) -> str:
        """The settings."""
        return repr(self.spec)

    @property
    def _mine(self) -> dict[str, Tensor]:
        return {k: getattr(self, k) for k in self.names}

    def step_size(self) -> Tensor | None:
        """Return the distance of two levels, where it is the same of all."""
        return self.spec.step_size(**self._mine) if isinstance(self.spec, _Stepped) else None

    def coded(self, x: Tensor) -> Terms:
        """Quantize x, any shape, to codes and scales."""
        mine = self._started(x)
        if isinstance(self.spec, _Coder):
            return self.spec.coded(x, **mine, **self.given)
        return (Term(self.spec(x, **mine, **self.given)),)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        return self.spec(x, **self._started(x), **self.given)

    def _started(self, x: Tensor) -> dict[str, Tensor]:
        """The parameters, which start from x if they are to and have not."""
        mine = self._mine
        if self.observing and not self.seen:
            for name, value in self.spec.start(x.detach()).items():
                mine[name].copy_(value)
            self.seen.fill_(True)
        return mine


def positive(x: Tensor) -> Tensor:
    """|x|, at least the smallest normal number: a step may leave a scale at 0 or below it."""
    return x.abs().clamp(min=torch.finfo(x.dtype).tiny)
