"""The discrete gradient: single flips that lower the loss, the cheapest first."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State

HAIR = 1e-6
"""How far past a jump to go, in units of epsilon: enough for rounding, and no room for another."""


@dataclass(frozen=True, config=STRICT)
class DiscreteGradient:
    """-d: every coordinate its nearest flip that lowers the loss, while |d| <= eps (this project).

    Along a coordinate the loss is piecewise constant; d_i is the smallest shift of size <= eps, to
    either side, that alone makes it lower. Those shifts are taken in the order of decrease per
    squared length, until the sum of squares would exceed eps^2. What the shifts do together is not
    foreseen (behind +-1 inputs all weights of a unit cross the same threshold, and all may be
    taken): ``decrease`` says, measured at w + d, where a step of learning rate 1 lands; ``flips``
    of the ``candidates`` were taken, of length ``length``.

    Exact, from every coordinate's loss profile (`sa.flips`); draws nothing. Coordinates without
    one stay: those of the last layer, on which the loss is smooth, and of convolutions. Refused
    where there is no fast path. The more rows there are, the nearer the nearest flip, and the less
    it does: a quantity for small batches. It does not scale with the loss (target ``none``).

    Args:
        epsilon: largest length of the step d, and of the shift of one coordinate, in the units of
            the weights.

    """

    target: ClassVar[str] = "none"
    epsilon: Annotated[float, Gt(0)] = 0.1

    def init(self, params: Params) -> State:
        """No state."""
        return {}

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where no coordinate has an exact profile, saying why."""
        if structure.obstacle:
            raise ValueError(
                f"discrete_gradient is not possible: {structure.obstacle}; use estimator=best_of"
            )
        if not any(x.step is not None and x.padding is None for x in structure.links):
            raise ValueError(
                "discrete_gradient needs a fully connected layer followed by a step; "
                "use estimator=best_of"
            )

    @torch.no_grad()
    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """2 evals, a forward a layer, and the rows re-run from their flipped units on."""
        self.requires(objective.structure)
        move = {k: torch.zeros_like(v) for k, v in params.items()}
        found, evals = [], 2.0
        for one in objective.profiles(params, self.epsilon):
            evals += one.evals
            flip = nearest(one.shifts, one.losses, self.epsilon)
            if flip is not None:
                shift, decrease = flip
                found.append((decrease / shift**2, shift, one.name, one.at))
        spent, flips = 0.0, 0
        # behind +-1 inputs a unit's coordinates tie: their order is not to be that of rounding
        for _, shift, name, place in sorted(found, key=lambda x: -float(f"{x[0]:.6g}")):
            spent += shift**2
            if spent > self.epsilon**2:
                break
            move[name][place] = shift
            flips += 1
        value = objective.value(params)
        after = objective.value({k: v + move[k] for k, v in params.items()})
        length = float(sum(m.square().sum() for m in move.values())) ** 0.5
        info: Numbers = {"decrease": float(value - after), "length": length}
        info |= {"flips": float(flips), "candidates": float(len(found))}
        return Estimate(value, {k: -v for k, v in move.items()}, evals, info=info)


def nearest(shifts: Tensor, losses: Tensor, epsilon: float) -> tuple[float, float] | None:
    """The smallest shift within epsilon that lowers the loss, and by how much; None without.

    Pieces whose loss is not finite are no descent, and set no scale.
    """
    edge = shifts.new_full((1,), epsilon)
    left, right = torch.cat([-edge, shifts]), torch.cat([shifts, edge])
    here = int((shifts <= 0).sum())
    ahead = torch.arange(len(losses), device=losses.device) > here
    near, far = torch.where(ahead, left, -right), torch.where(ahead, right, -left)
    drop, hair = losses[here] - losses, HAIR * epsilon
    drop[here] = 0
    # pieces narrower than rounding may be none, and so may decreases
    ok = losses.isfinite()
    least = 1e-10 * losses[ok].abs().max() if ok.any() else math.inf
    lower = ok & (drop > least) & (far - near > 2 * hair) & (near + hair <= epsilon)
    if not lower.any():
        return None
    at = int(torch.where(lower, near, near.new_full((), torch.inf)).argmin())
    return float((near[at] + hair) * (1 if at > here else -1)), float(drop[at])
