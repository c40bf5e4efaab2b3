"""`Learned`: a quantizer with parameters, which belong to its layer and are trained with it."""

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
    """A quantizer with parameters, which are passed to every call by name."""

    @property
    def lr(self) -> float | None:
        """Learning rate of the parameters; None for the rate of the other parameters."""
        ...

    @property
    def decay(self) -> float | None:
        """Weight decay of the parameters; None for the decay of the other parameters."""
        ...

    def start(self, x: Tensor) -> dict[str, Tensor] | None:
        """Return the initial parameters, by name, from the first tensor x.

        None if the parameters cannot start from x because it is all 0.
        """
        ...

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """The function (x, **parameters) -> x quantized."""
        ...


@runtime_checkable
class _Coder(Protocol):
    def coded(self, x: Tensor, *args: Any, **kwargs: Any) -> Terms: ...


@runtime_checkable
class _Stepped(Protocol):
    def step_size(self, *args: Any, **kwargs: Any) -> Tensor | None: ...


class Learned(LayerQuantizer):
    """The quantizer y = spec(x, **parameters) of one layer, with parameters that are trained.

    The parameters start from the first tensor that is observed while ``observing`` is True, once at
    the start of a training. Before that they have the values that ``like`` gives, the weights of
    the layer. A step size cannot start from a tensor of zeros; the quantizer is then the identity,
    and ``asleep`` is True, until another tensor is observed. ``group`` has the settings of the
    parameters in the optimizer.
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
        """Optimizer settings of these parameters; those left out are as for other parameters."""
        own = {"lr": self.spec.lr, "weight_decay": self.spec.decay}
        return {k: v for k, v in own.items() if v is not None}

    @property
    def observes(self) -> bool:
        """True if the parameters have not started yet."""
        return not self.seen

    @property
    def asleep(self) -> bool:
        """True if the quantizer is still the identity because all observed tensors were zeros."""
        return self._zeros and not bool(self.seen)

    @property
    def _params(self) -> dict[str, Tensor]:
        """The parameters as the layer has them now, by name."""
        # getattr: under `torch.func.functional_call` they are tensors, and get_parameter fails
        return {k: getattr(self, k) for k in self.names}

    def step_size(self) -> Tensor | None:
        """Return the distance between neighbouring levels; None if it varies, or if asleep."""
        if self.asleep:
            return None
        return self.spec.step_size(**self._params) if isinstance(self.spec, _Stepped) else None

    def coded(self, x: Tensor) -> Terms:
        """Return the codes and scales of x, any shape."""
        mine = self._started(x)
        if self.asleep:
            return (Term(x),)
        if isinstance(self.spec, _Coder):
            return self.spec.coded(x, **mine, **self.given)
        return (Term(self.spec(x, **mine, **self.given)),)

    def forward(self, x: Tensor) -> Tensor:
        """Return x quantized, any shape."""
        mine = self._started(x)
        return x if self.asleep else self.spec(x, **mine, **self.given)

    def _started(self, x: Tensor) -> dict[str, Tensor]:
        """Return the parameters; start them from x if they have not started and may start now."""
        mine = self._params
        if self.observing and not self.seen:
            start = self.spec.start(x.detach())
            self._zeros = start is None
            for name, value in (start or {}).items():
                mine[name].copy_(value)
            self.seen.fill_(start is not None)
        return mine


def positive(x: Tensor) -> Tensor:
    """Return |x|, but at least a floor; a step of the optimizer may make a scale 0 or negative.

    The derivative is the sign of x (+1 at 0), also at the floor, so that a scale can leave the
    floor. The floor is the third root of the smallest normal number, 2e-13 in float32, so that
    a number divided by the floor's square is still finite.
    """
    size = x.detach().abs().clamp(min=torch.finfo(x.dtype).tiny ** (1 / 3))
    return size + torch.where(x.detach() < 0, -1.0, 1.0).to(x.dtype) * (x - x.detach())
