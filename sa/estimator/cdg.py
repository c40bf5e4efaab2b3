"""The coordinate discrete gradient: exact central differences along every coordinate."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _finite, _scale
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import size
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class CDG:
    """[f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every i (Kim et al., BinaryDuo, ICLR 2020).

    Component i is exactly the derivative of the loss smoothed over a box of half-width eps along
    coordinate i; no sampling variance. Differences of networks are taken in float64 whatever their
    dtype; give a plain function a float64 point. A coordinate whose difference is not finite is 0,
    and counted in ``nonfinite``.

    >>> from sa.objective.objective import from_function
    >>> f = from_function(lambda p: (p["w"] ** 2).sum())
    >>> CDG(epsilon=0.5)(f, {"w": torch.tensor([3.0])}, {}, torch.Generator()).grad["w"]
    tensor([6.])

    Args:
        epsilon: half-width of the box, in the units of the weights: w_i moves by +- epsilon.
        path: ``auto`` takes the exact fast path where the network is a chain of affine maps,
            convolutions and steps, or where only kernels of convolutions move (`sa.flips`), and
            two forwards a coordinate elsewhere. ``fast`` and ``brute`` insist on one of them.

    """

    target: ClassVar[str] = "box"
    epsilon: Annotated[float, Gt(0)] = 0.1
    path: Literal["auto", "fast", "brute"] = "auto"

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where path=fast is demanded and the network prevents it."""
        if self.path == "fast" and structure.slow:
            raise ValueError(
                f"path=fast is not possible: {structure.slow}; use path=auto or path=brute"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2D + 1 evals by brute force, far fewer on the fast path; draws nothing."""
        _scale.require("epsilon", self.epsilon, params, at, torch.float64)
        got = objective.differences(params, [self.epsilon], self.path)
        grad, left_out = _finite.coordinates(got.grads[0])
        info: Numbers = {"path": got.path, "evals_brute": 2.0 * size(params) + 1}
        info |= {f"path/{name}": way for name, way in got.paths.items()}
        info |= _finite.counted(left_out)
        return Estimate(objective.value(params), grad, got.evals + 1, info=info)
