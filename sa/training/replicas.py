"""Many small networks trained at once: their parameters stacked, their losses summed.

In the gradient of the sum, the part of each replica is the gradient of that replica's own loss. An
optimizer that works element by element (SGD, Adam) then steps each replica as if it was trained
alone, so that the loop is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sa.network.hooks import trait
from sa.network.structure import Structure
from sa.objective.batches import Batches, side_by_side
from sa.objective.evaluate import Evaluation
from sa.objective.forward import Forward, norms_use
from sa.objective.gradient_noise import seed
from sa.objective.modes import statistics
from sa.objective.prepare import prepare, spoilt
from sa.objective.problem import Problem
from sa.objective.task import Task
from sa.params import ranges, stream
from sa.types import Batch, Params, Splits


@dataclass(kw_only=True, eq=False)
class StackedForward(Forward):
    """The networks of seeds seed, seed + 1, ... as one network; its loss is the sum of theirs.

    Replicas are the first axis of every parameter and buffer, (R, ...), and the second axis of
    every batch, (n, R, ...).

    Args:
        first_seed: the seed of the first network.
        many: how many networks there are, R.
        running: the buffers of the networks, such as running statistics.

    """

    first_seed: int
    many: int
    running: Params = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        """The number of networks, R."""
        return self.many

    @property
    def buffers(self) -> Params:
        """The buffers of the networks, (R, ...)."""
        return self.running

    def rows(self, params: Params, batch: Batch) -> Tensor:
        """Return the row losses (n,), each summed over the networks."""
        outputs = self.outputs(params, batch.inputs)
        return self.row_losses(outputs, batch.targets).sum(1)

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (n, R) of outputs (n, R, ...)."""
        losses = super().row_losses(outputs.flatten(0, 1), targets.flatten(0, 1))
        return losses.view(outputs.shape[:2])

    def _call(
        self, params: Params, inputs: Tensor, use: str, call: Callable[..., Tensor]
    ) -> Tensor:
        def one(point: Params, x: Tensor) -> Tensor:
            return call(self.network, point, (x,))

        same = inputs.stride(1) == 0  # equal rows: one matrix product serves all networks
        dims = (0, None) if same else (0, 1)
        x = inputs[:, 0] if same else inputs
        with statistics([*self.norms.values()], norms_use(self.numerics, use)):
            return torch.vmap(one, dims, out_dims=1)(self.frozen | self.running | params, x)

    def seeds(self, step: int) -> Callable[[torch.Generator], Sequence[int]]:
        """Return a function that draws a seed of gradient noise for each network.

        Each network gets the seeds that it would draw if it was trained alone.
        """
        own: list[torch.Generator] = []

        def draw(_: torch.Generator) -> list[int]:
            if not own:  # only gradient quantizers ask
                each = range(self.first_seed, self.first_seed + self.many)
                device = self.numerics.device
                own.extend(stream(s, "estimator", step, device=device) for s in each)
            return [seed(generator) for generator in own]

        return draw

    @torch.no_grad()
    def per_network(self, params: Params, batch: Batch, total: Tensor) -> Tensor:
        """Return the loss (R,), float64, of each network on a batch."""
        _, rows = self.chunk_sizes(batch.rows, 1, self.width)
        parts = (
            self.row_losses(self.run(params, part.inputs, "train"), part.targets)
            for part in (batch.part(a, b) for a, b in ranges(batch.rows, rows))
        )
        return torch.stack([p.double().sum(0) for p in parts]).sum(0) / batch.rows

    @torch.no_grad()
    def track(self, params: Params, inputs: Tensor) -> None:
        """Update the running statistics, if there are any, by one forward pass over the inputs."""
        if self.norms:
            self.run(params, inputs, "track")

    @torch.no_grad()
    def first_bad(self, params: Params, batch: Batch) -> str:
        """Return the first parameter that is not finite, else loss or gradient, and the seed."""
        for name, p in params.items():
            bad = (~p.isfinite()).flatten(1).any(1)
            if bad.any():
                return f"{name} of seed {self.first_seed + int(bad.nonzero()[0])}"
        outputs = self.run(params, batch.inputs, "train")
        bad = ~self.row_losses(outputs, batch.targets).isfinite().all(0)
        if not bad.any():
            return "a gradient"
        return f"the loss of seed {self.first_seed + int(bad.nonzero()[0])}"


def stack(task: Task, seed: int, replicas: int) -> Problem:
    """Return the problems of so many seeds as one; data that no seed changes are held once."""
    drawn = stream(seed, "data")
    before = drawn.get_state()
    data = task.dataset.load(drawn)
    same = torch.equal(before, drawn.get_state())
    each = [prepare(task, s, data if same else None) for s in range(seed, seed + replicas)]
    first = each[0].forward

    def stacked(parts: list[Params]) -> Params:
        return {k: torch.stack([p[k] for p in parts]) for k in parts[0]}

    def rows(parts: list[Tensor]) -> Tensor:
        if same:
            return parts[0].unsqueeze(1).expand(-1, replicas, *parts[0].shape[1:])
        return torch.stack(parts, 1)

    splits = [
        Batch(*(rows([p.data[i][k] for p in each]) for k in range(2))) for i in range(2)
    ]  # train and test, inputs and targets
    quantized = first.structure.quantized
    forward = StackedForward(
        structure=Structure(why_not_a_chain="replicas are trained together", quantized=quantized),
        width=first.width * replicas,
        numerics=first.numerics,
        coupled=first.coupled,
        kind=first.kind,
        network=first.network,
        frozen=stacked([p.frozen for p in each]),
        first_seed=seed,
        many=replicas,
        running=stacked([p.buffers for p in each]),
    )
    data, given = Splits(*splits), splits[0].targets
    classes = each[0].evaluation.classes
    labels = given.argmax(-1) if classes and first.kind == "mse" else given
    wrong = partial(spoilt, task.dataset, seed, labels)
    seeds = tuple(range(seed, seed + replicas))
    batches: Callable[[int], Batch] = Batches(
        data.train, first.numerics.batch_size, seeds, stacked=True
    )
    if trait(task.dataset, "fresh") or task.numerics.augment:
        batches = partial(side_by_side, [p.batches for p in each])
    evaluation = Evaluation(forward, data, classes, wrong)
    return Problem(forward, evaluation, batches, stacked([p.params for p in each]), seed)
