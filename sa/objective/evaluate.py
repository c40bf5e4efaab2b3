"""What a network gives whole: outputs, losses of both splits, the points it has passed."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sa.types import Numbers, Params


class Network(Protocol):
    """The network behind a loss, in evaluation mode.

    ends: (params, buffers) where trainings of it ended, where the run was given any.
    """

    ends: Sequence[tuple[Params, Params]]

    @property
    def classes(self) -> int:
        """How many classes the targets are of; 0 where they are numbers."""
        ...

    def path(self) -> Sequence[Params]:
        """The points its training kept before this one, less parameters no loss depends on."""
        ...

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """What it puts out for inputs (n, ...): (n, outputs)."""
        ...

    def evaluate(self, params: Params, buffers: Params | None = None) -> Numbers:
        """Loss, and accuracy for classes, of both splits: ``train/loss``, ``test/loss``, ..."""
        ...

    def constant(self) -> Tensor | None:
        """Loss (1,) of the best constant output on the training rows; None where there is none."""
        ...

    def recalibrate(self, params: Params, buffers: Params | None = None) -> Params:
        """The buffers with BatchNorm's statistics at params, over the training rows."""
        ...
