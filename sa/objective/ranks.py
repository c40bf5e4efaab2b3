"""The processes that share the rows of a step; here there is one, which has all rows."""

from collections.abc import Sequence

from torch import Tensor


class Ranks:
    """One process that has all rows: nothing to tell, to share or to add.

    `sa.training.ranks.Ring` is of several processes.
    """

    rank = 0
    world = 1

    def part(self, rows: int) -> tuple[int, int]:
        """Return start and stop of this process' rows."""
        return 0, rows

    def tell(self, step: int) -> None:
        """Tell the other processes which step comes next."""

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the tensors of rank 0, in place."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the sums of their tensors, in place."""
