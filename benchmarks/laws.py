"""Command `python -m benchmarks.laws`: estimators measured beside their closed forms.

On a linear loss f = g.w it prints the cosine of every estimator that has a closed form for it, and
the scale r = <g^, g>/|g|^2, which a cosine hides. On Rosenbrock's function it prints where
estimators come to rest, since smoothing moves the minimum.
"""

import importlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import yaml
from torch import Tensor

from sa.config.catalogue import CONF
from sa.estimator.cdg import CDG
from sa.estimator.finite_difference import FiniteDifference
from sa.estimator.nes import NES
from sa.estimator.rdsa import RDSA
from sa.estimator.sphere import Sphere
from sa.estimator.spsa import SPSA
from sa.objective.function import from_function
from sa.objective.objective import Objective
from sa.types import Estimator, Params

DIM, SAMPLES, DRAWS = 200, (20, 200, 1000), 50
MINIMUM, STEEP = 1.0, 100.0  # Rosenbrock's a and b


def _folder(samples: int) -> Iterator[tuple[str, Any]]:
    """Return (name, estimator) for every file in conf/estimator that draws samples."""
    for path in sorted((CONF / "estimator").glob("*.yaml")):
        node = yaml.safe_load(path.read_text())
        module, _, name = node.pop("_target_").rpartition(".")
        if "samples" in node and not any(isinstance(v, dict) for v in node.values()):
            yield (
                path.stem,
                getattr(importlib.import_module(module), name)(**node | {"samples": samples}),
            )


def _scale(estimator: Any, norm: float) -> float:
    """Return the expected scale r: 1, or less for estimators that use the order of losses."""
    if getattr(estimator, "shaping", "none") == "ranks":
        return 1 / (2 * math.sqrt(math.pi) * estimator.sigma * norm)
    if type(estimator).__name__ == "ARS":
        q = float(torch.special.ndtri(torch.tensor(1 - estimator.top / 2, dtype=torch.float64)))
        density = math.exp(-q * q / 2) / math.sqrt(2 * math.pi)
        return 2 * math.sqrt(1 + 2 * q * density / estimator.top) / norm
    return 1.0


def _linear(samples: int) -> Iterator[str]:
    # a seed that no draw uses; with a shared one the first direction would be g itself
    g = torch.randn(DIM, generator=torch.Generator().manual_seed(DRAWS), dtype=torch.float64)
    f = from_function(lambda p: p["w"] @ g + 1.0, vectorized=True)
    at = {"w": torch.zeros(DIM, dtype=torch.float64)}
    for name, estimator in _folder(samples):
        got = []
        for seed in range(DRAWS):
            try:
                one = estimator(f, at, {}, torch.Generator().manual_seed(seed))
            except ValueError:  # this estimator needs a network
                break
            if "cosine_expected" not in one.info:
                break
            got.append(one.grad["w"])
        if not got:
            continue
        stack = torch.stack(got)
        cosines = stack @ g / (stack.norm(dim=1) * g.norm())
        r = stack @ g / (g @ g)
        law, scale = float(one.info["cosine_expected"]), _scale(estimator, float(g.norm()))
        yield f"{name:<18}{samples:>6}  {_pair(cosines, law)}  {_pair(r, scale)}"


def _pair(measured: Tensor, law: float) -> str:
    error = float(measured.std()) / len(measured) ** 0.5
    return f"{float(measured.mean()):8.4f} +- {error:.4f} {law:8.4f}"


def rosenbrock(a: float = MINIMUM, b: float = STEEP) -> Objective:
    """Return the objective (a - x)^2 + b (y - x^2)^2 of w = (x, y)."""
    return from_function(
        lambda p: (a - p["w"][0]) ** 2 + b * (p["w"][1] - p["w"][0] ** 2) ** 2, vectorized=True
    )


def rest(estimator: Estimator, seed: int = 0, steps: int = 40) -> Tensor:
    """Return the point where an estimator's gradient of Rosenbrock's function is 0 under one seed.

    Under one seed the estimate is a smooth function of the point, so Newton's method converges to
    machine precision. The spread of these points over seeds is the estimator's error.
    """
    f, w = rosenbrock(), torch.tensor([0.8, 0.6], dtype=torch.float64)

    def grad(w: Tensor) -> Tensor:
        point: Params = {"w": w}
        return estimator(f, point, {}, torch.Generator().manual_seed(seed)).grad["w"]

    for _ in range(steps):
        here, h = grad(w), 1e-5
        columns = [(grad(w + h * e) - here) / h for e in torch.eye(2, dtype=torch.float64)]
        move = torch.linalg.solve(torch.stack(columns, 1), here)
        w = w - move * min(1.0, 0.3 / float(move.norm()))
        if float(move.norm()) < 1e-8:
            return w
    raise RuntimeError(f"{estimator} did not come to rest")


def _between(kurtosis: float, sigma: float) -> tuple[float, float]:
    """Return the resting point of directions with independent entries of kurtosis k.

    It is x = a/(1 + 2 b (k - 1) sigma^2), y = x^2 + sigma^2. The kernel along x has variance
    sigma^2 k/3 and adds 4 b k sigma^2 x to df/dx; the other entries add -2 b sigma^2 to df/dy.
    """
    x = MINIMUM / (1 + 2 * STEEP * (kurtosis - 1) * sigma**2)
    return x, x**2 + sigma**2


def _central(epsilon: float) -> tuple[float, float]:
    x = MINIMUM / (1 + 2 * STEEP * epsilon**2)
    return x, x**2


def _ball(sigma: float) -> tuple[float, float]:
    x = MINIMUM / (
        1 + 2 * STEEP * sigma**2
    )  # a ball of radius sigma sqrt(2) has variance sigma^2/2
    return x, x**2 + sigma**2 / 2


def _forward(epsilon: float) -> tuple[float, float]:
    a, b, e = MINIMUM, STEEP, epsilon  # y = x^2 - e/2 leaves a quadratic equation in x
    p, q, r = 4 * b * e, 2 + 2 * b * e + 4 * b * e**2, e - 2 * a + b * e**2 + b * e**3
    x = (-q + math.sqrt(q * q - 4 * p * r)) / (2 * p)
    return x, x**2 - e / 2


N = 1024
RESTS: dict[str, tuple[Estimator, tuple[float, float]]] = {
    "cdg, eps 0.1": (CDG(0.1), _central(0.1)),
    "cdg, eps 0.01": (CDG(0.01), _central(0.01)),
    "finite_difference, eps 0.01": (FiniteDifference(0.01), _forward(0.01)),
    "nes, sigma 0.1": (NES(0.1, N), _between(3, 0.1)),
    "rdsa, sigma 0.1": (RDSA(0.1, N), _between(9 / 5, 0.1)),
    "sphere, sigma 0.1": (Sphere(0.1, N), _ball(0.1)),
    "spsa, sigma 0.1": (SPSA(0.1, N), _between(1, 0.1)),
}
"""Estimator and the (x, y) where its target is stationary."""


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print(f"linear loss, D = {DIM}, {DRAWS} draws: measured +- standard error, expected")
    print(f"{'estimator':<18}{'N':>6}  {'cosine':>8}{'law':>19}  {'scale r':>8}{'law':>19}")
    for line in sorted(x for n in SAMPLES for x in _linear(n)):
        print(line)
    print("\nRosenbrock, a = 1, b = 100, minimum (1, 1): where the gradient is 0")
    print(f"{'estimator':<28}  {'x':>8}{'law':>19}  {'y':>8}{'law':>19}")
    for name, (estimator, law) in RESTS.items():
        drawn = hasattr(estimator, "samples")
        at = torch.stack([rest(estimator, seed) for seed in range(8 if drawn else 2)])
        print(f"{name:<28}  {_pair(at[:, 0], law[0])}  {_pair(at[:, 1], law[1])}")


if __name__ == "__main__":
    main()
