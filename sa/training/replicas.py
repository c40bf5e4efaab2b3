"""Many small networks trained at once: their parameters stacked, their losses summed.

The sum's gradient has every replica's own in its part of the stack, and optimizers that work
element by element (SGD, Adam) then step each as if it were alone: the loop is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from sa.network.structure import Structure
from sa.objective.criterion import CRITERIA
from sa.objective.divergence import best_constant
from sa.objective.gradient_noise import seed
from sa.objective.objective import Objective
from sa.objective.prepare import prepare
from sa.objective.problem import PART, SPLITS, Problem, chosen, statistics
from sa.objective.task import Task
from sa.objective.total import total
from sa.params import blocks, stream
from sa.types import Batch, Numbers, Params, Splits


@dataclass
class Replicas(Problem):
    """The problems of seeds seed, seed + 1, ... as one.

    Every parameter and buffer has the replicas first, (R, ...), every row of a batch second,
    (n, R, ...): replica r sees the rows, in the order, that the run of its seed alone would see.
    """

    running: Params = field(default_factory=dict)
    first: Problem | None = None
    _epoch: tuple[int, Tensor] | None = None
    _step: int = 0

    @property
    def buffers(self) -> Params:
        """What the networks keep beside parameters, (R, ...)."""
        return self.running

    def redundant(self) -> list[str]:
        """Biases that batch normalisation takes away again: the same of every network."""
        assert self.first is not None
        return self.first.redundant()

    def batch(self, step: int) -> Batch:
        """The rows of one step, of every replica."""
        self._step = step
        return super().batch(step)

    def objective(self, batch: Batch) -> Objective:
        """The loss on the last batch; random gradient quantizers draw as each seed alone would."""
        mine, device = super().objective(batch), self.task.device
        seeds = range(self.seed, self.seed + (self.replicas or 1))
        own = [stream(s, "estimator", self._step, device=device) for s in seeds]
        mine.seeds = lambda _: [seed(generator) for generator in own]
        return mine

    @torch.no_grad()
    def losses(self, params: Params, batch: Batch, total: Tensor) -> Tensor:
        """Loss of each network (R,), float64, of a batch at a point."""
        parts = (
            self._each(self._forward(params, part.inputs, "train"), part.targets)
            for part in (batch.part(a, b) for a, b in blocks(batch.rows, self._rows(batch)))
        )
        return torch.stack([p.double().sum(0) for p in parts]).sum(0) / batch.rows

    def _rows(self, batch: Batch) -> int:
        """How many rows fit into memory at once; all where BatchNorm couples them."""
        coupled = self.norms and self.task.batchnorm == "batch"
        return batch.rows if coupled else max(1, self.task.memory // (8 * self.width))

    def constant(self) -> Tensor | None:
        """Loss (R,) of each network's best constant output on its training rows."""
        if self.kind == "value":
            return None
        targets, many = self.data.train.targets, self.replicas or 1
        each = [best_constant(CRITERIA[self.kind], targets[:, r]) for r in range(many)]
        return torch.tensor(each, dtype=torch.float64)

    def _order(self, epoch: int) -> Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            n, seeds = self.data.train.rows, range(self.seed, self.seed + (self.replicas or 1))
            each = [torch.randperm(n, generator=stream(s, "batches", epoch)) for s in seeds]
            self._epoch = epoch, torch.stack(each, 1)
        return self._epoch[1]  # (n, R)

    def _picked(self, index: Tensor) -> Batch:
        train = self.data.train
        index = index.to(train.inputs.device)
        mine = torch.arange(index.shape[1], device=index.device)
        return Batch(train.inputs[index, mine], train.targets[index, mine])

    def _forward(
        self,
        params: Params,
        inputs: Tensor,
        use: str,
        call: Callable[..., Tensor] = functional_call,
    ) -> Tensor:
        """Outputs (n, R, ...)."""

        def one(point: Params, x: Tensor) -> Tensor:
            return call(self.network, point, (x,))

        same = inputs.stride(1) == 0  # one matrix product serves all
        dims = (0, None) if same else (0, 1)
        x = inputs[:, 0] if same else inputs
        norms = {"train": self.task.batchnorm, "eval": "running"}.get(use, use)
        with statistics(self.norms, norms):
            return torch.vmap(one, dims, out_dims=1)(self.frozen | self.running | params, x)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._each(outputs, targets).sum(1)

    def _each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = CRITERIA[self.kind](outputs.flatten(0, 1), targets.flatten(0, 1))
        return losses.view(outputs.shape[:2])

    @torch.no_grad()
    def evaluate(
        self, params: Params, buffers: Params | None = None, splits: Sequence[str] = SPLITS
    ) -> Numbers:
        """Loss, accuracy, ``fitted``: their mean, 5th, 50th and 95th percentile, and each."""
        out: Numbers = {}
        most = max(1, min(PART, self.task.memory // (8 * self.width)))
        for split in splits:
            batch = self.data[SPLITS.index(split)]
            losses, hits = [], []
            for start, stop in blocks(batch.rows, most):
                part = batch.part(start, stop)
                got = self._forward(params | (buffers or {}), part.inputs, "eval")
                losses.append(self._each(got, part.targets).double())
                if self.task.dataset.classes:
                    truth = part.targets.argmax(2) if self.kind == "mse" else part.targets
                    hits.append((chosen(got, 2) == truth).double())
            found = {"loss": total(torch.cat(losses).T) / batch.rows}
            if hits:
                right = torch.cat(hits)
                found["accuracy"] = total(right.T) / batch.rows
                wrong = self.spoilt if split == "train" else None
                if wrong is not None and wrong.any():
                    found["fitted"] = total((right * wrong).T) / wrong.sum(0)
            for name, each in found.items():
                low, middle, high = each.quantile(each.new_tensor([0.05, 0.5, 0.95])).tolist()
                key = f"{split}/{name}"
                out |= {key: float(each.mean()), f"{key}/low": low, f"{key}/median": middle}
                out |= {f"{key}/high": high, f"{key}/each": each.tolist()}
        return out

    @torch.no_grad()
    def first_bad(self, params: Params, batch: Batch) -> str:
        """The first parameter that is not finite, or the loss or gradient, and whose it is."""
        for name, p in params.items():
            bad = (~p.isfinite()).flatten(1).any(1)
            if bad.any():
                return f"{name} of seed {self.seed + int(bad.nonzero()[0])}"
        outputs = self._forward(params, batch.inputs, "train")
        bad = ~self._each(outputs, batch.targets).isfinite().all(0)
        return (
            f"the loss of seed {self.seed + int(bad.nonzero()[0])}" if bad.any() else "a gradient"
        )


def stack(task: Task, seed: int, replicas: int) -> Replicas:
    """Return the problems of so many seeds as one; data that no seed draws are held once."""
    drawn = stream(seed, "data")
    before = drawn.get_state()
    data = task.dataset.load(drawn)
    same = torch.equal(before, drawn.get_state())
    each = [prepare(task, s, data if same else None) for s in range(seed, seed + replicas)]
    first = each[0]

    def stacked(parts: list[Params]) -> Params:
        return {k: torch.stack([p[k] for p in parts]) for k in parts[0]}

    def rows(parts: list[Tensor]) -> Tensor:
        if same:
            return parts[0].unsqueeze(1).expand(-1, replicas, *parts[0].shape[1:])
        return torch.stack(parts, 1)

    splits = [
        Batch(*(rows([p.data[i][k] for p in each]) for k in range(2))) for i in range(2)
    ]  # train and test, inputs and targets
    return Replicas(
        task=task,
        network=first.network,
        kind=first.kind,
        data=Splits(*splits),
        params=stacked([p.params for p in each]),
        frozen=stacked([p.frozen for p in each]),
        structure=Structure(
            obstacle="replicas are trained together", quantized=first.structure.quantized
        ),
        norms=first.norms,
        width=first.width * replicas,
        seed=seed,
        replicas=replicas,
        first=first,
        running=stacked([p.buffers for p in each]),
    )
