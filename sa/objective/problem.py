"""`Problem`: the losses of all steps, their evaluation, and the point to start from."""

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
    """The network, the data and the start of a training or a probe.

    Args:
        forward: computes the outputs and row losses of the network, or of a stack of networks.
        evaluation: computes the scores, and holds the rows of both splits.
        batches: returns the minibatch of a step, from the step's number.
        params: the point to start from.
        seed: the seed of all randomness; for replicas, that of the first network.
        partial: saves the progress of long computations.
        ranks: the processes that share the rows of a step.
        plain: returns the minibatch of a step without the changes of ``augment``; None if
            ``batches`` changes no rows.

    """

    forward: Forward
    evaluation: Evaluation
    batches: Callable[[int], Batch]
    params: Params
    seed: int
    partial: Partial = field(default_factory=KeepsNothing)
    ranks: Ranks = Ranks()
    plain: Callable[[int], Batch] | None = None

    @property
    def data(self) -> Splits:
        """The rows of both splits."""
        return self.evaluation.data

    @property
    def network(self) -> nn.Module:
        """The network; for replicas, the first one."""
        return self.forward.network

    @property
    def structure(self) -> Structure:
        """The structure of the network."""
        return self.forward.structure

    @property
    def frozen(self) -> Params:
        """The parameters that do not move."""
        return self.forward.frozen

    @property
    def buffers(self) -> Params:
        """The buffers of the network (such as running statistics), by name."""
        return self.forward.buffers

    def batch(self, step: int) -> Batch:
        """Return the minibatch of a step, and tell the other processes that this step comes."""
        self.ranks.tell(step)
        return self.batches(step)

    def objective(self, batch: Batch, step: int = 0) -> Objective:
        """Return the loss on a batch; its ``heldout`` is the loss on the test split.

        If several processes share the rows, the loss is over the rows of this process. The
        objective keeps the outputs of a gradient for the evaluation if the batch has all rows and
        the network computes the same in training and in evaluation.

        Args:
            batch: the rows, as `batch` returns them.
            step: their step, >= 0. It chooses the draws of layers in training mode and, for
                replicas, the noise of gradient quantizers.

        """
        every, (start, stop) = batch is self.data.train, self.ranks.part(batch.rows)
        forward = self.forward.at(self.seed, step)
        return Objective(
            forward,
            batch if stop - start == batch.rows else batch.part(start, stop),
            heldout=self._loss(forward, self.data.test),
            whole=None if every else self._loss(forward, self.data.train),
            evaluation=self.evaluation,
            partial=self.partial,
            keep_outputs=every and self.forward.steady,
            seeds=self.forward.seeds(step),
            ranks=self.ranks,
            first=start,
            total=batch.rows,
        )

    def analysed(self, objective: Objective, step: int) -> Objective:
        """Return the loss that analyses measure at a step: on its rows without augmentation."""
        if self.plain is None:
            return objective
        return self.objective(self.plain(step), step)

    def _loss(self, forward: Forward, batch: Batch) -> Objective:
        """Return the loss on other rows, without a held-out twin."""
        return Objective(forward, batch, evaluation=self.evaluation, partial=self.partial)
