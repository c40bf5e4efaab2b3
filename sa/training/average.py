"""A running mean of the points of a training, which does not change the training."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.training.schedule import first_step
from sa.types import STRICT, Params, State


@dataclass(frozen=True, config=STRICT)
class Average:
    """The mean sum_i a_i w_i / sum_i a_i of points w_1, ..., w_n of a training, with buffers.

    With a decay, a_i = decay^(n - i). This is the exponential moving average with Adam's bias
    correction (Kingma & Ba 2015), so that the initial value has no influence. Without a decay,
    a_i = 1. BatchNorm's running statistics are averaged too; set ``recalibrate`` to estimate the
    statistics of the mean itself.

    Args:
        decay: share of the average that stays at each point, for an exponential moving average;
            null gives all points the same weight (stochastic weight averaging, Izmailov et al.,
            UAI 2018).
        start: share of the training before the first point.
        every: steps between two points.

    """

    decay: Annotated[float, Ge(0), Lt(1)] | None = 0.999
    start: Annotated[float, Ge(0), Lt(1)] = 0.0
    every: Annotated[int, Gt(0)] = 1

    @property
    def name(self) -> str:
        """The prefix of the scores of the mean: ema or swa."""
        return "swa" if self.decay is None else "ema"

    def look(self, mean: State, params: Params, buffers: Params, step: int, steps: int) -> State:
        """Return the running mean, updated with this step's parameters if the step is due.

        A step is counted once, even after a resume.
        """
        after = step - first_step(self.start, steps)
        if after < 0 or after % self.every or mean.get("step", -1) >= step:
            return mean
        n = mean.get("count", 0) + 1
        share = 1 / n if self.decay is None else (1 - self.decay) / (1 - self.decay**n)

        def mixed(kind: str, point: Params) -> Params:
            return {k: _lerp(mean[kind][k] if mean else v, v, share) for k, v in point.items()}

        seen: dict[str, Any] = {"step": step, "count": n}
        return seen | {"params": mixed("params", params), "buffers": mixed("buffers", buffers)}


@torch.no_grad()
def _lerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return a + share (b - a); b itself if its numbers are whole."""
    a = a.to(b.device)  # tensors of a checkpoint are on the CPU
    return a + share * (b - a) if b.is_floating_point() else b.clone()
