"""Stochastic rounding with a straight-through backward pass, averaged over samples."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.estimator import _noise, _slopes
from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class SRSTE(Method):
    """Sampled states forward, a straight-through backward, mean over ``samples`` (Bengio 2013).

    It is biased for the gradient of the expected loss (target ``stochastic``). It is made for the
    activation `relaxed_bernoulli`, and works with any random unit.

    Paper: Bengio, Leonard & Courville, "Estimating or propagating gradients through stochastic
    neurons", arXiv 1308.3432, 2013.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.RelaxedBernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.SRSTE(samples=4)(loss, seed=0).evals
    13.0

    Args:
        samples: draws of the random units that a call averages over.
        backward: ``surrogate`` multiplies by the slope m(A) at the pre-activation A, as `ste` does.
            ``relaxed`` multiplies by the derivative of the relaxed sample y = sigmoid((logit p +
            logit u)/T) (straight-through Gumbel).
        surrogate: slope of backward=surrogate, one of the names of `ste`.
        scale: the slope's c, k or beta, as in `ste`; null for its usual value.
        temperature: T of backward=relaxed, and null with backward=surrogate. P(y > 1/2) = p for
            every T, so the states do not depend on it.

    """

    target: ClassVar[str] = "stochastic"
    laws: ClassVar[Laws] = {"unbiased": "a straight-through slope replaces that of the mean state"}
    samples: Annotated[int, Gt(0)] = 1
    backward: Literal["surrogate", "relaxed"] = "surrogate"
    surrogate: Literal["identity", "clipped", "tanh", "poly", "swish"] = "clipped"
    scale: Annotated[float, Gt(0)] | None = None
    temperature: Annotated[float, Gt(0)] | None = None

    @model_validator(mode="after")
    def _meaningful(self) -> "SRSTE":
        if self.backward == "surrogate" and self.temperature is not None:
            raise ValueError(
                f"temperature={self.temperature:g} has no effect with backward=surrogate: "
                "P(y > 1/2) = p for every temperature, so the states are the same, and the slope "
                "does not use y; set temperature=null or backward=relaxed"
            )
        if self.backward == "relaxed" and self.temperature is None:
            raise ValueError("backward=relaxed needs a temperature > 0, e.g. temperature=1")
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if no unit is random."""
        _noise.requires(structure)

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 3 evals a sample, and 1 more."""
        rows = _noise.sampled(self._unit, objective.rows)
        with surrogate.backward(_slopes.rule(self.surrogate, self.scale)):
            grad, noise = _noise.average(objective, params, generator, self.samples, rows)
        evals = 3.0 * self.samples + 1
        return Estimate(objective.value(params), grad, evals, info=noise.info)

    def _unit(self, k: int, phi: Tensor, noise: _noise.Noise) -> Tensor:
        states = noise.states(k, phi)
        if self.temperature is None:
            return states
        y = torch.sigmoid((phi + noise.draw(k, phi)) / self.temperature)
        return _noise.straight(states, phi, 2 * y * (1 - y) / self.temperature)
