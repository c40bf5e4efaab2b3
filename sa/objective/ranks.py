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

    def gathered(self, own: Tensor, first: int, rows: int) -> Tensor:
        """Return the outputs of all rows of a step, from each process' own.

        Args:
            own: outputs of this process' rows.
            first: rows of the step that come before them.
            rows: rows of the step in all processes.

        """
        every = own.new_zeros(rows, *own.shape[1:])
        every[first : first + len(own)] = own
        self.add([every])
        return every
