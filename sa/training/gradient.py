"""An estimated gradient in a training loop of your own, which calls ``loss.backward()``."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sa.objective.function import RowFunction
from sa.objective.objective import Objective
from sa.params import stream
from sa.types import PROBE, Batch, Estimate, Estimator, Moment, Params, State

_SHARES = 10**6
"""The number of steps of a training of which only the progress is known."""


class Gradient:
    """Turn the loss of a plain training loop into one whose backward is an estimate.

    ``loss = gradient(closure)`` returns the loss, and ``loss.backward()`` adds the estimate to
    ``.grad`` of the model's parameters. So clipping, accumulation, schedulers and every optimizer
    go on as before.

    All evaluations of one call see the same random numbers (dropout) and the same buffers
    (BatchNorm). Afterwards the buffers and the random state are those that one forward pass at the
    point leaves, as in a plain loop. If the estimator evaluates no loss there, this costs one
    evaluation more. The first call also checks that two evaluations agree, which costs two.

    >>> from sa.estimator.ste import STE
    >>> model = nn.Linear(2, 1)
    >>> gradient = Gradient(STE(), model)
    >>> gradient(lambda: model(torch.ones(1, 2)).sum()).backward()
    >>> model.weight.grad
    tensor([[1., 1.]])

    Args:
        estimator: any estimator; one that needs the structure of a network sees a plain function.
        model: the network that the closure calls; its parameters that require a gradient move.
        seed: the seed of the estimator's random numbers.

    """

    def __init__(self, estimator: Estimator, model: nn.Module, seed: int = 0):
        self.estimator, self.model, self.seed = estimator, model, seed
        self.last: Estimate | None = None
        self.calls = 0
        self.state: State | None = None
        self._at: Moment = PROBE

    def moment(self, progress: float, lr: float | None = None) -> None:
        """Set the progress of the training at the next calls, for estimators with a schedule.

        Args:
            progress: the share of the training that is done, in [0, 1].
            lr: the learning rate of the step, >= 0.

        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress={progress}: expected a share from 0 to 1")
        self._at = Moment(round(progress * _SHARES), _SHARES, lr)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the number of calls and the estimator's state."""
        return {"calls": self.calls, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.calls, self.state = state["calls"], state["state"]

    def __call__(self, closure: Callable[[], Tensor]) -> Tensor:
        """Return the loss of this step, 0-dim; its backward adds the estimate to ``.grad``.

        Args:
            closure: computes the loss with the model and returns it, 0-dim; it calls no backward.

        Raises:
            ValueError: the closure returns no number, or calls backward.

        """
        step = _Step(self.model, closure)
        if self.calls == 0:
            step.look_twice()
        one = torch.zeros(1, 0)
        objective = Objective(RowFunction(step.rows, vectorized=False), Batch(one, one))
        state = self.estimator.init(step.point) if self.state is None else self.state
        device = str(next(iter(step.point.values())).device)
        generator = stream(self.seed, "estimator", self.calls, device=device)
        estimate = self.estimator(objective, step.point, state, generator, self._at)
        step.finish()
        self.last, self.state, self.calls = estimate, estimate.state, self.calls + 1
        moving = [p for p in self.model.parameters() if p.requires_grad]
        grads = [estimate.grad[k] for k in step.point]
        return _Handed.apply(estimate.value.to(moving[0].dtype), len(grads), *grads, *moving)


class _Step:
    """The loss of one call as a function of the parameters, with one set of random numbers."""

    def __init__(self, model: nn.Module, closure: Callable[[], Tensor]):
        self.call = _Called(model, closure)
        named = dict(self.call.named_parameters())
        self.point = {k: p.detach().clone() for k, p in named.items() if p.requires_grad}
        if not self.point:
            raise ValueError("model: no parameter requires a gradient; set requires_grad on some")
        self.buffers = dict(self.call.named_buffers())
        self.before = {k: b.clone() for k, b in self.buffers.items()}
        self.random = _random_state()
        self.after: tuple[Params, Any] | None = None

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the loss at a point as one row, (1,)."""
        buffers = {k: b.clone() for k, b in self.before.items()}
        outer = _random_state()
        _set_random_state(self.random)
        try:
            loss = functional_call(self.call, {**params, **buffers}, ())
            if self.after is None and self._here(params):
                self.after = buffers, _random_state()
        except RuntimeError as error:
            if "does not require grad" in str(error):
                raise ValueError(_NO_BACKWARD) from error
            raise
        finally:
            _set_random_state(outer)
        if not torch.is_tensor(loss) or loss.dim():
            what = f"shape {tuple(loss.shape)}" if torch.is_tensor(loss) else type(loss).__name__
            raise ValueError(f"the closure returned {what}; expected one number, 0-dim")
        if any(p.grad is not None for p in params.values()):
            raise ValueError(_NO_BACKWARD)
        return loss.reshape(1)

    def _here(self, params: Params) -> bool:
        return all(params[k].data_ptr() == p.data_ptr() for k, p in self.point.items())

    @torch.no_grad()
    def look_twice(self) -> None:
        """Warn if two evaluations of the same point differ."""
        empty = torch.zeros(1, 0)
        first, second = (float(self.rows(self.point, Batch(empty, empty))) for _ in range(2))
        if first != second and abs(first - second) > 1e-6 * max(abs(first), abs(second)):
            warnings.warn(
                f"two evaluations of the closure at one point differ ({first:.6g}, {second:.6g}): "
                "it draws random numbers that torch does not know of, and differences of losses "
                "are noise; draw them with torch",
                stacklevel=3,
            )
        self.after = None

    @torch.no_grad()
    def finish(self) -> None:
        """Set buffers and random state to what one forward pass at the point leaves."""
        if self.after is None:
            empty = torch.zeros(1, 0)
            self.rows(self.point, Batch(empty, empty))
        assert self.after is not None
        buffers, random = self.after
        for name, buffer in self.buffers.items():
            buffer.copy_(buffers[name])
        _set_random_state(random)


_NO_BACKWARD = (
    "the closure calls backward; let it return the loss, and call backward on what the gradient "
    "returns: gradient(closure).backward()"
)


class _Called(nn.Module):
    """A model and a closure that calls it, as one module without inputs."""

    def __init__(self, model: nn.Module, closure: Callable[[], Tensor]):
        super().__init__()
        self.model, self._closure = model, closure

    def forward(self) -> Tensor:
        return self._closure()


class _Handed(torch.autograd.Function):
    """A loss whose derivative by the parameters is given."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[:count])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        handed = (grad.to(g.dtype) * g for g in grads)
        return None, None, *[None] * len(grads), *handed


def _random_state() -> Any:
    """Return the state of torch's global generators, of the CPU and of all GPUs in use."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), gpus


def _set_random_state(state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
