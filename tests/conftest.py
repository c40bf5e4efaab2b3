"""What tests share: rooms read from the folders, and closed-form losses."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"

torch.set_num_threads(1)


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def component(group: str, name: str, **overrides):
    """A member of a room with its YAML defaults; interpolations filled with dim 3, fwba."""
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    slots = {
        "_target_": "sa.types.Slots",
        "weight": {"_target_": "sa.quantizer.none.Identity"},
        "activation": {"_target_": "sa.quantizer.sign.Sign"},
    }
    root = OmegaConf.create({"dim": 3, "quantizer": slots, "it": node})
    made = OmegaConf.to_container(root, resolve=True)["it"] | overrides
    return instantiate(made, _convert_="all")


def cifar(root: Path, rows: int = 12, seed: int = 0) -> Path:
    """A cifar-10-batches-py below root, whose files have a few rows each."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images = draw.integers(0, 256, (rows, 3072), dtype=np.uint8)
        labels = [int(x) for x in draw.permutation(np.arange(rows) % 10)]
        content = {b"batch_label": name.encode(), b"labels": labels, b"data": images}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


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
