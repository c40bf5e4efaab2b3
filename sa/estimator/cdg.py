"""The coordinate discrete gradient: exact central differences along every coordinate."""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.estimator import _finite, _scale
from sa.estimator._base import Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import size
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State


@dataclass(frozen=True, config=STRICT)
class CDG(Method):
    """[f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every i (Kim et al., BinaryDuo, ICLR 2020).

    Component i is exactly the derivative, along coordinate i, of the loss smoothed over a box of
    half-width eps in that coordinate (target ``box``). There is no sampling variance. Differences
    of networks are computed in float64, whatever their dtype; give a plain function a float64
    point. A coordinate whose difference is not finite is 0 and counted in ``nonfinite``.

    Paper: Kim, Kim & Kim, "BinaryDuo", ICLR 2020.

    >>> from sa.objective.function import from_function
    >>> f = from_function(lambda p: (p["w"] ** 2).sum())
    >>> CDG(epsilon=0.5)(f, {"w": torch.tensor([3.0])}, {}, torch.Generator()).grad["w"]
    tensor([6.])

    Args:
        epsilon: half-width of the box, in the units of the weights: w_i moves by +- epsilon.
        path: ``auto`` takes the exact fast path (`sa.flips`) if the network is a chain of affine
            maps, convolutions and steps, or if only kernels of convolutions move. Otherwise it
            runs two forwards a coordinate. ``fast`` and ``brute`` demand one of the two.

    """

    target: ClassVar[str] = "box"
    epsilon: Annotated[float, Gt(0)] = 0.1
    path: Literal["auto", "fast", "brute"] = "auto"

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if path=fast is demanded and the network has no fast path."""
        if self.path == "fast" and structure.why_no_fast_path:
            raise ValueError(
                f"path=fast is not possible: {structure.why_no_fast_path}; use path=auto or "
                "path=brute"
            )

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2D + 1 evals by brute force, far fewer on the fast path."""
        _scale.require("epsilon", self.epsilon, params, at, torch.float64)
        exact = objective.differences(params, [self.epsilon], self.path)
        grad, left_out = _finite.coordinates(exact.grads[0])
        info: Numbers = {"path": exact.path, "evals_brute": 2.0 * size(params) + 1}
        info |= {f"path/{name}": path for name, path in exact.paths.items()}
        info |= _finite.counted(left_out)
        return Estimate(objective.value(params), grad, exact.evals + 1, info=info)
