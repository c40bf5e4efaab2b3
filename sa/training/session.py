"""Ask and tell: an estimator of a loss that is measured outside of this process."""

import queue
import threading
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from sa.objective.function import RowFunction
from sa.objective.objective import Objective
from sa.params import stream
from sa.types import Batch, Estimate, Estimator, Moment, Params, State


class _Closed(Exception):
    """The session ended before its estimate."""


class NeedsMore(ValueError):
    """An estimator needs more of a loss than its values."""


@dataclass(eq=False)
class _Asked(Objective):
    """A loss whose values come from outside: it hands out points and waits for their losses."""

    points: "queue.Queue[Any]" = field(default_factory=queue.Queue)
    losses: "queue.Queue[Any]" = field(default_factory=queue.Queue)

    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        """Return the losses (K,) float64 of K points, once they have been told."""
        count = len(next(iter(stack.values())))
        shared = {k: v.expand(count, *v.shape) for k, v in (base or {}).items() if k not in stack}
        self.points.put({k: v.detach().clone() for k, v in (shared | stack).items()})
        losses = self.losses.get()
        if losses is None:
            raise _Closed
        return losses

    def value(self, params: Params) -> Tensor:
        """Return the loss at a point: 0-dim float64."""
        return self.values({k: v[None] for k, v in params.items()})[0]

    def _refuse(self, what: str) -> NoReturn:
        raise NeedsMore(f"needs {what}; a black box has only values")

    def value_and_grad(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NeedsMore: nothing is back-propagated through a black box."""
        self._refuse("a backward pass")

    def directional(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NeedsMore: a black box has no derivative along a direction."""
        self._refuse("derivatives along directions")

    def rows(self, params: Params, batch: Batch) -> NoReturn:
        """Raise NeedsMore: a black box has no rows."""
        self._refuse("the losses of single rows")

    def row_losses(self, params: Params) -> NoReturn:
        """Raise NeedsMore: a black box has no rows."""
        self._refuse("the losses of single rows")

    def curvature(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NeedsMore: a black box has no Hessian products."""
        self._refuse("products with the Hessian")


class Session:
    """Estimate a gradient from losses that are measured outside of this process.

    The estimator runs in a thread of its own and waits there for the losses of the points that it
    asks for. The gradient is the one of a direct call with the same seed, bit for bit.

    >>> from sa.estimator.spsa import SPSA
    >>> s = Session(SPSA(samples=8), {"w": torch.ones(4, dtype=torch.float64)})
    >>> while not s.done:
    ...     s.tell((s.ask()["w"].numpy() ** 2).sum(-1))
    >>> s.estimate.evals
    17.0

    Args:
        estimator: an estimator that uses only values of the loss, such as NES, SPSA, CDG or CMA.
        params: the tensors of the point, by name.
        seed: the seed of the estimator's random numbers.
        step: which step of a training this is, >= 0; another step draws other numbers.
        state: ``estimate.state`` of the step before; None for the first step.

    Raises:
        ValueError: the estimator needs more than values, such as a backward pass.

    """

    def __init__(
        self,
        estimator: Estimator,
        params: Params,
        seed: int = 0,
        step: int = 0,
        state: State | None = None,
    ):
        self.estimator = estimator
        one = torch.zeros(1, 0)
        rows = RowFunction(lambda at, batch: torch.zeros(1))
        self._objective = _Asked(rows, Batch(one, one))
        self._points: Params | None = None
        self._estimate: Estimate | None = None
        point = {k: v.detach().clone() for k, v in params.items()}
        start = estimator.init(point) if state is None else state
        call = (self._objective, point, start, stream(seed, "estimator", step), Moment(step))
        self._thread = threading.Thread(target=self._run, args=call, daemon=True)
        self._thread.start()
        self._wait()

    def _run(self, *call: Any) -> None:
        """Compute the estimate, in the session's own thread."""
        try:
            self._objective.points.put(self.estimator(*call))
        except _Closed:
            pass
        except BaseException as error:
            self._objective.points.put(error)

    def _wait(self) -> None:
        """Wait until the estimator asks for losses, or has its estimate."""
        got = self._objective.points.get()
        self._points = None
        if isinstance(got, NeedsMore):
            name = type(self.estimator).__name__
            raise ValueError(f"{name} {got}: take one that needs values alone, as NES or CDG")
        if isinstance(got, BaseException):
            raise got
        if isinstance(got, Estimate):
            self._estimate = got
        else:
            self._points = got

    @property
    def done(self) -> bool:
        """True if the estimate is there."""
        return self._estimate is not None

    @property
    def estimate(self) -> Estimate:
        """The estimate; raises ValueError while losses are missing."""
        if self._estimate is None:
            raise ValueError("estimate: losses are still wanted; ask() and tell() until done")
        return self._estimate

    def ask(self) -> Params:
        """Return the points whose losses are wanted: name -> (K, ...), K points."""
        if self._points is None:
            raise ValueError("ask: no losses are wanted; the session is done or closed")
        return dict(self._points)

    def tell(self, losses: Any) -> None:
        """Give the losses of the points of `ask`, in their order.

        Args:
            losses: K numbers, in any array or list; NaN where there is no loss.

        Raises:
            ValueError: there are not as many losses as points.

        """
        points = self.ask()
        values = torch.as_tensor(losses, dtype=torch.float64).detach().cpu().reshape(-1)
        count = len(next(iter(points.values())))
        if len(values) != count:
            raise ValueError(f"tell: {len(values)} losses for {count} points; give one a point")
        self._points = None
        self._objective.losses.put(values)
        self._wait()

    def close(self) -> None:
        """End the session; its thread ends too. Does nothing after the estimate."""
        if self._points is not None:
            self._points = None
            self._objective.losses.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
