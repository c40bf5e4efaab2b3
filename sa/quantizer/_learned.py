"""A quantizer with parameters of its own, one set for every layer."""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from sa.network.codes import Term, Terms
from sa.network.traits import LayerQuantizer

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

    def start(self, x: Tensor) -> dict[str, Tensor] | None:
        """What the parameters start from, given the first tensor; None if x, all 0, gives none."""
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


class Learned(LayerQuantizer):
    """y = spec(x, **parameters), where they belong to the layer and move as parameters do.

    They start from the first tensor observed, which ``observing`` allows, once at the start; until
    then from ``like``, the layer's weights, if any. A tensor of zeros starts no step size: until
    another one is observed the quantizer is the identity, which it says by ``asleep``. ``group`` is
    what their optimizer group sets: a learning rate and a weight decay of their own.
    """

    spec: Parametric

    def __init__(self, spec: Parametric, like: Tensor | None, **given: Any):
        super().__init__(spec)
        self.given = given
        some = torch.ones(1, dtype=torch.float64) if like is None else like.detach()
        start = spec.start(some)
        self._zeros = start is None
        start = start or spec.start(torch.ones_like(some)) or {}
        self.names = list(start)
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
    def observes(self) -> bool:
        """Whether there is anything to see yet."""
        return not self.seen

    @property
    def asleep(self) -> bool:
        """Whether it is the identity for now: all that it has seen are zeros."""
        return self._zeros and not bool(self.seen)

    @property
    def _mine(self) -> dict[str, Tensor]:
        # by name: under `torch.func.functional_call` they are tensors, which get_parameter refuses
        return {k: getattr(self, k) for k in self.names}

    def step_size(self) -> Tensor | None:
        """Return the distance of two levels, where it is the same of all."""
        if self.asleep:
            return None
        return self.spec.step_size(**self._mine) if isinstance(self.spec, _Stepped) else None

    def coded(self, x: Tensor) -> Terms:
        """Quantize x, any shape, to codes and scales."""
        mine = self._started(x)
        if self.asleep:
            return (Term(x),)
        if isinstance(self.spec, _Coder):
            return self.spec.coded(x, **mine, **self.given)
        return (Term(self.spec(x, **mine, **self.given)),)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize x, any shape."""
        mine = self._started(x)
        return x if self.asleep else self.spec(x, **mine, **self.given)

    def _started(self, x: Tensor) -> dict[str, Tensor]:
        """The parameters, which start from x if they are to and have not."""
        mine = self._mine
        if self.observing and not self.seen:
            start = self.spec.start(x.detach())
            self._zeros = start is None
            for name, value in (start or {}).items():
                mine[name].copy_(value)
            self.seen.fill_(start is not None)
        return mine


def positive(x: Tensor) -> Tensor:
    """|x|, at least a floor: a step may leave a scale at 0 or below it.

    The derivative is the sign of x, +1 at 0, at the floor too, so that a scale moves away from it.
    The floor is the third root of the smallest normal number, 2e-13 in float32: what is divided by
    its square is still finite.
    """
    size = x.detach().abs().clamp(min=torch.finfo(x.dtype).tiny ** (1 / 3))
    return size + torch.where(x.detach() < 0, -1.0, 1.0).to(x.dtype) * (x - x.detach())
