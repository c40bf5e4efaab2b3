"""Command `python -m benchmarks.memory`: peak memory above the data follows `memory`, not the work.

Each case runs in a process of its own; Linux only (the peak is read from /proc and reset there).
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.cdg import problem
from sa.dataset.digits import Digits
from sa.estimator.cdg import CDG
from sa.estimator.local_nes import LocalNES
from sa.estimator.nes import NES
from sa.estimator.spectral import Spectral
from sa.estimator.ste import STE
from sa.model.cnn import CNN
from sa.model.convnet import ConvNet
from sa.model.fc import FC
from sa.objective.numerics import Numerics
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import stream
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.training.loop import loop, start
from sa.types import Batch, Estimator, Model, Slots, Splits

MIB = 1 << 20


@dataclass(frozen=True)
class White:
    """A dataset of images of CIFAR's shape with independent normal pixels and random classes."""

    rows: int = 20_000
    shape: tuple[int, ...] = (3, 32, 32)
    classes: int = 10

    def load(self, generator: torch.Generator) -> Splits:
        """Return both splits; the test rows are the first hundred."""
        images = torch.randn(self.rows, *self.shape, generator=generator, dtype=torch.float64)
        train = Batch(images, torch.randint(10, (self.rows,), generator=generator))
        return Splits(train, train.part(0, 100))


def _images(model: Model, estimator: Estimator) -> Callable[[], object]:
    """Run two steps of full-batch descent on 20,000 images, with the scores of every step."""
    task = Task(model=model, dataset=White(), criterion="mse", numerics=Numerics(dtype="float32"))
    problem = prepare(task, 0)
    sgd = partial(torch.optim.SGD, lr=0.01)
    begin = start(problem)
    return lambda: list(loop(problem, estimator, sgd, {}, steps=2, progress=begin))


def _toy(estimator: Estimator, rows: int) -> Callable[[], object]:
    p = problem(64, rows)
    f = p.objective(p.batch(0))
    return lambda: estimator(f, p.params, {}, stream(0, "memory"))


def _maps(estimator: Estimator, memory: int) -> Callable[[], object]:
    model = CNN(
        quantizer=Slots(Identity(), Sign()), channels=(64, 64, 64), pool="none", norm="none",
        head="average",
    )  # fmt: skip
    task = Task(
        model=model,
        dataset=Digits(),
        moving=("conv2.*", "conv3.*"),
        numerics=Numerics(memory=memory),
    )
    p = prepare(task, 0)
    f = p.objective(p.batch(0).part(0, 256))
    return lambda: estimator(f, p.params, {}, stream(0, "memory"))


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "nes, N 50, 640,000 rows": lambda: _toy(NES(samples=50), 640_000),
    "nes, N 100, 640,000 rows": lambda: _toy(NES(samples=100), 640_000),
    "nes, N 50, 1,024 rows": lambda: _toy(NES(samples=50), 1024),
    "nes, N 50,000, 1,024 rows": lambda: _toy(NES(samples=50_000), 1024),
    "local_nes, 640,000 rows": lambda: _toy(LocalNES(), 640_000),
    "cdg, eps 0.1, 640,000 rows": lambda: _toy(CDG(0.1), 640_000),
    "conv cdg, eps 0.01, budget 32 MiB": lambda: _maps(CDG(0.01), 32 * MIB),
    "conv cdg, eps 0.01, budget 256 MiB": lambda: _maps(CDG(0.01), 256 * MIB),
    "fc_tanh, 20,000 images": lambda: _images(FC(), STE()),
    "cnn_relu, 20,000 images": lambda: _images(ConvNet(), STE()),
    "fc_tanh, 20,000 images, top 10": lambda: _images(FC(), Spectral()),
}


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Run every case, or the one that is named."""
    if len(sys.argv) < 2:
        print(f"{'case':<38}{'peak above data':>16}{'seconds':>10}   (budget 128 MiB unless said)")
        for name in CASES:
            subprocess.run([sys.executable, "-m", "benchmarks.memory", name], check=True)
        return
    name = sys.argv[1]
    torch.set_num_threads(1)
    act = CASES[name]()
    torch.randn(256, 256) @ torch.randn(256, 256)  # allocates the buffers of the libraries
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here
    before, began = _peak(), time.perf_counter()
    act()
    spent = time.perf_counter() - began
    print(f"{name:<38}{(_peak() - before) / MIB:>12.0f} MiB{spent:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
