"""`Ranks`: the processes that share the rows of a step. Here a single process has all rows."""

from collections.abc import Sequence

from torch import Tensor


class Ranks:
    """A single process with all rows; it has nothing to communicate.

    `sa.training.ranks.Ring` is the version for several processes.
    """

    rank = 0
    world = 1

    def part(self, rows: int) -> tuple[int, int]:
        """Return the start and the end of the rows of this process, out of ``rows`` rows."""
        return 0, rows

    def tell(self, step: int) -> None:
        """Tell the other processes the number of the next step."""

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of rank 0."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of all processes with their sums over the processes."""

    def gathered(self, own: Tensor, first: int, rows: int) -> Tensor:
        """Return the outputs of all rows of a step, in the order of the rows.

        Args:
            own: outputs of the rows of this process.
            first: number of rows of the step that come before them.
            rows: number of rows of the step in all processes.

        """
        every = own.new_zeros(rows, *own.shape[1:])
        every[first : first + len(own)] = own
        self.add([every])
        return every
