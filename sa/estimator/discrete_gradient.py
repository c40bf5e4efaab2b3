"""The discrete gradient: single flips that lower the loss, the most efficient first."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator._base import DISPLACEMENT, Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, State

HAIR = 1e-6
"""How far a shift goes past a jump, as a share of epsilon: enough to be safe from rounding."""


@dataclass(frozen=True, config=STRICT)
class DiscreteGradient(Method):
    """-d, d_i the nearest flip of coordinate i that lowers the loss, while |d| <= eps (`sa`'s own).

    Along a coordinate the loss is piecewise constant. d_i is the smallest shift of size <= eps, up
    or down, that alone lowers the loss. Shifts are taken in the order of decrease per squared
    length, until the sum of squares would exceed eps^2. Their joint effect is not predicted: with
    +-1 inputs all weights of a unit cross the same threshold, and all may be taken. ``decrease``
    is the fall of the loss measured at w + d, where a step of learning rate 1 lands. ``flips`` of
    the ``candidates`` were taken; ``length`` is |d|.

    It is exact, because it uses the loss profile of every coordinate (`sa.flips`), and it draws
    nothing. Coordinates without a profile do not move: those of the last layer, on which the loss
    is smooth, and those of convolutions. A network without a fast path is refused. With more rows
    the nearest flip is nearer and lowers the loss less, so use it with small batches. It does not
    scale with the loss (target ``none``).

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Sign()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> got = sa.DiscreteGradient(epsilon=0.5)(loss)
    >>> got.info["decrease"] > 0, got.info["length"] <= 0.5
    (True, True)

    Args:
        epsilon: largest length of the step d, and of the shift of one coordinate, in the units of
            the weights.

    """

    target: ClassVar[str] = "none"
    laws: ClassVar[Laws] = DISPLACEMENT | {
        "evals": "it evaluates parts of the network, and counts their share of a forward"
    }
    epsilon: Annotated[float, Gt(0)] = 0.1

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if no coordinate has an exact profile."""
        if structure.why_not_a_chain:
            raise ValueError(
                f"discrete_gradient is not possible: {structure.why_not_a_chain}; use "
                "estimator=best_of"
            )
        if not any(x.step is not None and x.padding is None for x in structure.links):
            raise ValueError(
                "discrete_gradient needs a fully connected layer followed by a step; "
                "use estimator=best_of"
            )

    @torch.no_grad()
    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 2 evals, one forward a layer, and suffixes of flipped rows."""
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
        # With +-1 inputs the coordinates of a unit tie. Rounding must not decide their order.
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
    """Return the smallest shift within epsilon that lowers the loss, and the decrease, or None.

    Pieces of the profile whose loss is not finite are ignored.

    Args:
        shifts: the jumps of the profile (c,).
        losses: the losses of its pieces (c + 1,).
        epsilon: largest size of the shift.

    """
    edge = shifts.new_full((1,), epsilon)
    left, right = torch.cat([-edge, shifts]), torch.cat([shifts, edge])
    here = int((shifts <= 0).sum())
    ahead = torch.arange(len(losses), device=losses.device) > here
    near, far = torch.where(ahead, left, -right), torch.where(ahead, right, -left)
    drop, hair = losses[here] - losses, HAIR * epsilon
    drop[here] = 0
    # Rounding makes pieces this narrow, and decreases this small.
    ok = losses.isfinite()
    least = 1e-10 * losses[ok].abs().max() if ok.any() else math.inf
    lower = ok & (drop > least) & (far - near > 2 * hair) & (near + hair <= epsilon)
    if not lower.any():
        return None
    at = int(torch.where(lower, near, near.new_full((), torch.inf)).argmin())
    return float((near[at] + hair) * (1 if at > here else -1)), float(drop[at])
