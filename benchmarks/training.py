"""Time of full-batch steps with their scores, in the training loop of sa and in the usual one."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import ratio
from sa.estimator.ste import STE
from sa.model.convnet import ConvNet
from sa.model.fc import FC
from sa.objective.numerics import Numerics
from sa.objective.prepare import prepare
from sa.objective.problem import Problem
from sa.objective.task import Task
from sa.training import loop
from sa.types import Batch, Model, Splits

STEPS, LR = 10, 0.01


@dataclass
class _Images:
    """Return rows of the shape of CIFAR-10's, and a test split of its size."""

    rows: int
    shape: tuple[int, ...] = (3, 32, 32)
    classes: int = 10

    def load(self, generator: torch.Generator) -> Splits:
        def draw(rows: int) -> Batch:
            images = torch.randn(rows, *self.shape, generator=generator)
            return Batch(images, torch.randint(0, 10, (rows,), generator=generator))

        return Splits(draw(self.rows), draw(10_000))


def _usual(p: Problem) -> None:
    """Run the usual loop: every step has a pass for the gradient and one a split for the scores."""
    network = p.network
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    loaders = [DataLoader(TensorDataset(*b), batch_size=1000) for b in p.data]
    for _ in range(STEPS):
        optimizer.zero_grad()
        for x, y in loaders[0]:
            (F.cross_entropy(network(x), y, reduction="sum") / p.data.train.rows).backward()
        optimizer.step()
        with torch.no_grad():
            for loader in loaders:
                loss = hits = 0.0
                for x, y in loader:
                    out = network(x)
                    loss += F.cross_entropy(out, y, reduction="sum").item()
                    hits += (out.argmax(1) == y).sum().item()


def _ours(p: Problem) -> None:
    sgd = lambda params: torch.optim.SGD(params, lr=LR)  # noqa: E731
    for _ in loop.loop(p, STE(), sgd, {}, steps=STEPS, progress=loop.start(p)):
        pass


def _step(name: str, model: Model, rows: int) -> dict[str, Any]:
    made = prepare(Task(model=model, dataset=_Images(rows), numerics=Numerics(dtype="float32")), 0)
    return ratio(
        name,
        lambda: _usual(made),
        lambda: _ours(made),
        against="a loader over the gradient's rows, then one over each split, every step, float32",
        settings={"rows": rows, "steps": STEPS, "test rows": 10_000, "test passes": 1},
    )


def full_batch_fc() -> dict[str, Any]:
    return _step("full_batch_fc", FC(), 5000)


def full_batch_cnn() -> dict[str, Any]:
    model = ConvNet(channels=(32, 32), kernel=3, activation="relu", norm="none", pooled=(1, 2))
    return _step("full_batch_cnn", model, 1000)
