"""What tests share: rooms read from the folders, and closed-form losses."""

from pathlib import Path

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
