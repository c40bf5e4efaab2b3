"""The base class of estimators, which are methods with settings, called with a loss."""

from collections.abc import Mapping
from typing import Any

import torch

from sa.objective.loss import Loss
from sa.params import stream
from sa.types import PROBE, Estimate, Moment, Params, State

Laws = Mapping[str, str]
"""Law of `sa.testing` that an estimator breaks on purpose -> the reason."""

DISPLACEMENT: dict[str, str] = {
    "unbiased": "it is a displacement to a better point, not a gradient",
    "scale": "the length of a displacement does not grow with the loss",
}


class Method:
    """The base class of estimators. Your own estimator does not have to inherit from it.

    A subclass defines ``target`` and `estimate`, and `init` if it carries anything from one call to
    the next.
    """

    def init(self, params: Params) -> State:
        """Return the state before the first call, by default an empty one."""
        return {}

    def estimate(
        self,
        objective: Any,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate at params."""
        raise NotImplementedError

    def __call__(
        self,
        objective: Any,
        params: Params | None = None,
        state: State | None = None,
        generator: torch.Generator | None = None,
        at: Moment = PROBE,
        *,
        seed: int = 0,
    ) -> Estimate:
        """Return the estimate of a loss' gradient.

        Args:
            objective: the loss: a `Loss` of `sa.loss`, or the `Objective` of a step of a training.
            params: the point; None for the loss' own.
            state: the state that the estimate of the previous step returned; None at the first.
            generator: source of all random numbers; None makes one from ``seed``.
            at: where in a training the call is made.
            seed: seed of the generator that is made if none is given.

        Raises:
            ValueError: there is no point, or the estimator does not work with this loss.

        """
        if params is None:
            if not isinstance(objective, Loss):
                raise ValueError("params: this loss has no point of its own; give one")
            params = objective.point
        if state is None:
            state = self.init(params)
        if generator is None:
            device = str(next(iter(params.values())).device)
            generator = stream(seed, "estimator", 0, device=device)
        return self.estimate(objective, params, state, generator, at)
