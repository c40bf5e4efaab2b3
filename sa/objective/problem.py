"""A problem: the loss on the rows of every step, its evaluation, and the point to start from."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from sa.network.structure import Structure
from sa.objective.evaluate import Evaluation
from sa.objective.forward import Forward
from sa.objective.objective import Objective
from sa.objective.ranks import Ranks
from sa.types import Batch, KeepsNothing, Params, Partial, Splits


@dataclass(eq=False)
class Problem:
    """What a training or a probe needs to know of its network and data.

    Args:
        forward: the network and its criterion, or a stack of networks.
        evaluation: its scores, and the data of both splits.
        batches: gives the rows of a step by its number.
        params: the point where the study starts.
        seed: of all randomness; of replicas the first network's.
        partial: keeps what long work has done so far.
        ranks: the processes that share the rows of a step.

    """

    forward: Forward
    evaluation: Evaluation
    batches: Callable[[int], Batch]
    params: Params
    seed: int
    partial: Partial = field(default_factory=KeepsNothing)
    ranks: Ranks = Ranks()

    @property
    def data(self) -> Splits:
        """The rows of both splits."""
        return self.evaluation.data

    @property
    def network(self) -> nn.Module:
        """The network; of replicas the first."""
        return self.forward.network

    @property
    def structure(self) -> Structure:
        """What the network is made of."""
        return self.forward.structure

    @property
    def frozen(self) -> Params:
        """The parameters that do not move."""
        return self.forward.frozen

    @property
    def buffers(self) -> Params:
        """What the network keeps beside parameters (running statistics), by name."""
        return self.forward.buffers

    def batch(self, step: int) -> Batch:
        """Return the rows of one step; the other ranks hear that it comes next."""
        self.ranks.tell(step)
        return self.batches(step)

    def objective(self, batch: Batch, step: int = 0) -> Objective:
        """Return the loss on a batch; its ``heldout`` is the loss on the test split.

        If the batch has all rows and the network computes the same in training and in evaluation,
        the objective keeps the outputs of a gradient for the evaluation. Each of several ranks gets
        its part of the rows.

        Args:
            batch: the rows, as `batch` gives them.
            step: their step, >= 0, which keys the noise of replicas' gradient quantizers.

        """
        every, (start, stop) = batch is self.data.train, self.ranks.part(batch.rows)
        return Objective(
            self.forward,
            batch if stop - start == batch.rows else batch.part(start, stop),
            heldout=self._loss(self.data.test),
            whole=None if every else self._loss(self.data.train),
            evaluation=self.evaluation,
            partial=self.partial,
            keep_outputs=every and self.forward.steady,
            seeds=self.forward.seeds(step),
            ranks=self.ranks,
            first=start,
            total=batch.rows,
        )

    def _loss(self, batch: Batch) -> Objective:
        return Objective(self.forward, batch, evaluation=self.evaluation, partial=self.partial)
