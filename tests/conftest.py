"""Shared helpers of the tests: components read from conf/, killed processes, closed-form losses."""

import gzip
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import forget, sa  # noqa: F401
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sa.dataset import _fashion_mnist
from sa.objective.numerics import Numerics
from sa.objective.task import Task
from sa.record import telling
from sa.testing.plugin import keeps_laws  # noqa: F401
from sa.types import Moment

CONF = Path(__file__).parents[1] / "conf"

torch.set_num_threads(1)


def options(group: str) -> list[str]:
    """Return the options of a group, without models of libraries that are not installed."""
    found = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
    return [x for x in found if (group, x) != ("model", "library")]


def component(group: str, name: str, /, **overrides):
    """Return a member of a room with its YAML defaults, at dim 3 and quantizer fwba.

    A shape that a configuration takes from its data is the default of the class here.
    """
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    if (group, name) == ("model", "module"):
        overrides = {"target": "own_nets.Flat", "shape": [1, 8, 8], **overrides}
    if node.get("shape", ()) is None:
        del node["shape"]
    slots = {
        "_target_": "sa.types.Slots",
        "weight": {"_target_": "sa.quantizer.none.Identity"},
        "activation": {"_target_": "sa.quantizer.sign.Sign"},
    }
    root = OmegaConf.create({"dim": 3, "quantizer": slots, "it": node})
    made = OmegaConf.to_container(root, resolve=True)["it"] | overrides
    return instantiate(made, _convert_="all")


def studied(model, dataset, criterion="auto", moving="all", **numerics) -> Task:
    """The task of a model and a dataset, with these settings of how the loss is computed."""
    return Task(model, dataset, criterion, moving, Numerics(**numerics))


def cifar(root: Path, rows: int = 12, seed: int = 0) -> Path:
    """Write a folder cifar-10-batches-py with a few rows per file; return its path."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images = draw.integers(0, 256, (rows, 3072), dtype=np.uint8)
        labels = [int(x) for x in draw.permutation(np.arange(rows) % 10)]
        content = {b"batch_label": name.encode(), b"labels": labels, b"data": images}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def idx(path: Path, values: np.ndarray) -> None:
    """Write an idx file of bytes; compressed if its name ends with .gz."""
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    content = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion(folder: Path, monkeypatch, rows: int = 40) -> Path:
    """Write files of Fashion-MNIST with a few rows, whose md5 is not checked; return the folder."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in _fashion_mnist.FILES:
        images = draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = np.arange(rows, dtype=np.uint8) % 10
        idx(folder / f"{name}.gz", images if "images" in name else labels)
        monkeypatch.setitem(_fashion_mnist.FILES, name, "")
    return folder


def share(progress: float) -> Moment:
    """Return the moment of a training of which this share is done."""
    return Moment(round(1000 * progress), 1000)


_KILLED = """
import os, signal, sys
from sa import run
from sa.record import run as record
at, saved, file, *words = sys.argv[1:]
append, save, step = record.Record.append, record.Record.save, 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def appended(self, row):
    global step
    append(self, row)
    step = row["step"]
    step == int(at) and die()
def kept(self, write, name="checkpoint.pt"):
    if name != "checkpoint.pt" or step <= int(saved):
        save(self, write, name)
        name == file and die()
record.Record.append, record.Record.save = appended, kept
sys.argv[1:] = [*words, "checkpoint_seconds=0"]
run.main()
"""


def killed(
    words: list[str], env: dict, *, at: int = -1, saved: int = 10**9, file: str = ""
) -> None:
    """Run a command in a process that ends with SIGKILL at the same step on every machine.

    It dies when it writes the row of step ``at``, with its last checkpoint at step ``saved``;
    or, with ``file``, as soon as it has saved that file beside the rows.
    """
    command = [sys.executable, "-c", _KILLED, str(at), str(saved), file, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class Quadratic:
    """f(w) = w'Hw/2 + b'w in two tensors of shapes (2, 2) and (2,), with its exact gradient."""

    def __init__(self, dim: int = 6):
        g = torch.Generator().manual_seed(1)
        a = torch.randn(dim, dim, generator=g, dtype=torch.float64)
        self.h = (a + a.T) / 2
        self.b = torch.randn(dim, generator=g, dtype=torch.float64)
        w = torch.randn(dim, generator=g, dtype=torch.float64)
        self.point = {"m": w[:4].view(2, 2), "v": w[4:]}

    def __call__(self, params):
        w = torch.cat([params["m"].flatten(), params["v"]])
        return w @ self.h @ w / 2 + self.b @ w

    @property
    def grad(self):
        w = torch.cat([self.point["m"].flatten(), self.point["v"]])
        return self.h @ w + self.b


@pytest.fixture
def quadratic():
    return Quadratic()


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


TIED = draw(2, 2)
# points of every shape, layout and dtype that a function's parameters may have
ROOMS = {
    "two": {"a": draw(2, 3), "b": draw(3)},
    "a number": {"gain": torch.tensor(2.0, dtype=torch.float64)},
    "a number beside": {"gain": torch.tensor(2.0, dtype=torch.float64), "w": draw(3)},
    "float32 number": {"gain": torch.tensor(2.0)},
    "empty": {"e": draw(0, 3)},
    "empty beside": {"e": draw(0, 3), "w": draw(3)},
    "transposed": {"w": draw(3, 2).T},
    "expanded": {"w": draw(1, 3).expand(2, 3)},
    "channels_last": {"w": draw(2, 3, 2, 2).to(memory_format=torch.channels_last)},
    "sliced": {"w": draw(4, 6)[::2, 1::2]},
    "float32": {"w": draw(2, 3, dtype=torch.float32)},
    "mixed": {"w": draw(2, 3, dtype=torch.float32), "v": draw(2)},
    "parameter": {"w": torch.nn.Parameter(draw(2, 3))},
    "frozen parameter": {"w": torch.nn.Parameter(draw(2, 3), requires_grad=False)},
    "shared": {"a": TIED, "b": TIED},
    "overlapping": {"a": TIED[0], "b": TIED},
}


def plain(room):
    """Return the same numbers in new contiguous float64 tensors."""
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in room.items()}


@pytest.fixture(autouse=True)
def _nothing_lost(monkeypatch):
    """Begin each test without lost output, as a new process does."""
    monkeypatch.setattr(telling, "LOST", {})
