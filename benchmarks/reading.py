"""Command `python -m benchmarks.reading`: evals of exact differences for networks of any form."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa import surrogate
from sa.network.quantize import Rule, apply_quantizers
from sa.network.read import describe, row_width
from sa.network.structure import Step
from sa.objective.criterion import CRITERIA
from sa.objective.forward import NetworkForward
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.params import size, stream
from sa.quantizer.uniform import Uniform
from sa.types import Batch

EPSILON = 0.1
CLASSES = 3


class Sign(nn.Module):
    """A sign layer as a user may write it."""

    step = Step((0.0,), (-1.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return +1 where x >= 0, else -1."""
        return surrogate.sign(x)


class Ternary(nn.Module):
    """A layer of three levels as a user may write it."""

    step = Step((-0.5, 0.5), (-1.0, 0.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return -1, 0 or 1."""
        return (x >= 0.5).to(x.dtype) + (x >= -0.5).to(x.dtype) - 1


class Functional(nn.Module):
    """Three layers with their own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 8), nn.Linear(10, 3)
        self.w, self.b = nn.Parameter(torch.randn(14, 8) / 3), nn.Parameter(torch.randn(14))
        self.d = nn.Linear(14, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        h = surrogate.sign(self.a(x))
        h = surrogate.sign(F.linear(h, self.w, self.b))
        return self.c(surrogate.sign(self.d(h)))


class Convolutions(nn.Module):
    """A network: convolution, norm, sign, convolution, sign, mean, fully connected."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.head = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        h = surrogate.sign(self.norm(self.one(x)))
        return self.head(surrogate.sign(self.two(h)).mean((2, 3)))


class ResidualConvolutions(nn.Module):
    """A residual block of stride 2 with a 1x1 shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 6, 3, 2, 1, bias=False)
        self.two = nn.Conv2d(6, 6, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.shortcut, self.head = nn.Conv2d(4, 6, 1, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        x = self.stem(x)
        h = surrogate.sign(self.norm1(self.one(x)))
        h = torch.relu(self.norm2(self.two(h)) + self.shortcut(x))
        return self.head(h.mean((2, 3)))


class ResidualMLP(nn.Module):
    """A network with two sums and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        h = torch.tanh(self.a(x))
        h = h + surrogate.sign(self.b(h))
        return self.head(x + self.c(h) * torch.sigmoid(x))


class Recurrent(nn.Module):
    """An LSTM and a fully connected head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        return self.head(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    """Attention and a fully connected head."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, 3)."""
        h = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(surrogate.sign(self.up(h)).mean(1))


def steps() -> nn.Module:
    """Return a Sequential with Hardtanh, Dropout and user-written steps."""
    return nn.Sequential(
        nn.Linear(8, 10), nn.Hardtanh(), Sign(), nn.Dropout(), nn.Linear(10, 5), Ternary(),
        nn.Linear(5, 3),
    )  # fmt: skip


def four_bits() -> nn.Module:
    """Return a Sequential whose middle layer is given 4-bit weights by a rule."""
    net = nn.Sequential(nn.Linear(8, 10), Sign(), nn.Linear(10, 5), Sign(), nn.Linear(5, 3))
    return apply_quantizers(net.double(), [Rule("2", weight=Uniform(bits=4))])


@dataclass(frozen=True)
class Case:
    """A network, the shape of a row, the number of rows, the criterion, whether vmap can run it."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (8,)
    rows: int = 200
    kind: str = "ce"
    vectorized: bool = True


CASES = {
    "own forward, mse": Case(Functional, kind="mse"),
    "own forward, ce": Case(Functional),
    "Hardtanh, sign, Dropout, ternary": Case(steps),
    "convolutions and a mean": Case(Convolutions, (1, 6, 6), 40),
    "residual block, stride 2, shortcut": Case(ResidualConvolutions, (1, 6, 6), 40),
    "residual MLP": Case(ResidualMLP),
    "LSTM and a head": Case(Recurrent, (5, 2), vectorized=False),
    "attention and a head": Case(Attending, (5, 4), vectorized=False),
    "4-bit weights by a rule": Case(four_bits),
}


def measure(case: Case) -> tuple[int, float, float, float, str]:
    """Return D, the evals read and by brute force, the largest difference, and the ways."""
    torch.manual_seed(0)
    network = case.build().double().eval()
    g = stream(0, "reading")
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):  # statistics as after training
            nn.init.normal_(m.running_mean, std=0.5, generator=g)  # type: ignore[arg-type]
    x = torch.randn(case.rows, *case.shape, generator=g, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (case.rows,), generator=g)
    if case.kind == "mse":
        targets = torch.randn(case.rows, CLASSES, generator=g, dtype=torch.float64)
    forward = NetworkForward(
        structure=describe(network, {}, "running", CRITERIA[case.kind], case.kind == "mse", x[:16]),
        width=row_width(network, x[:1]),
        numerics=Numerics(batchnorm="running"),
        kind=case.kind,
        network=network,
        vectorized=case.vectorized,
    )
    loss = Objective(forward, Batch(x, targets))
    point = {k: p.detach() for k, p in network.named_parameters()}
    ours, brute = (loss.differences(point, [EPSILON], path) for path in ("auto", "brute"))
    worst = max(float((ours.grads[0][k] - g).abs().max()) for k, g in brute.grads[0].items())
    every = list(ours.paths.values())
    ways = ", ".join(f"{way} {every.count(way)}" for way in dict.fromkeys(every))
    return (
        size(point),
        ours.evals,
        brute.evals,
        worst,
        ways or forward.structure.why_no_fast_path or "",
    )


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"float64; eps {EPSILON}; evals of all coordinates, and the largest absolute difference")
    print(f"{'network':<36}{'D':>5}{'evals':>8}{'brute':>7}{'differ':>9}  ways")
    for name, case in CASES.items():
        d, evals, brute, worst, ways = measure(case)
        print(f"{name:<36}{d:>5}{evals:>8.1f}{brute:>7.0f}{worst:>9.0e}  {ways}")


if __name__ == "__main__":
    main()
