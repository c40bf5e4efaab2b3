"""Command `python -m benchmarks.exactness`: the largest error of fast differences, by case."""

import itertools
from typing import Any

import torch

from benchmarks.cdg import problem
from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.flips import chain
from sa.flips import differences as flips
from sa.model.cnn import CNN
from sa.model.mlp import MLP
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Link, Step
from sa.objective.criterion import mse
from sa.objective.numerics import Numerics
from sa.objective.prepare import prepare
from sa.objective.problem import Problem
from sa.objective.task import Task
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Batch, Slots

FWBA = Slots(Identity(), Sign())
EPSILONS = [1e-3, 1e-2, 0.1, 1.0]
LEVELS = {
    "sign": Step((0.0,), (-1.0, 1.0)),
    "ternary": Step((-0.5, 0.5), (-1.0, 0.0, 1.0)),
    "2-bit": Step((0.25, 0.75, 1.25), (0.0, 0.5, 1.0, 1.5)),
}


def _network(p: Problem, rows: int) -> dict[str, float]:
    """Return the largest |fast - brute| over the largest |brute|, by layer and eps."""
    f = p.objective(p.batch(0).part(0, rows))
    fast, brute = (f.differences(p.params, EPSILONS, path) for path in ("fast", "brute"))
    out: dict[str, float] = {}
    for a, b in zip(fast.grads, brute.grads, strict=True):
        for name in a:
            worst = float((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-9))
            key = f"{name} ({fast.paths[name]})" if name in fast.paths else name
            out[key] = max(out.get(key, 0.0), worst)
    return out


def _ties(step: Step) -> tuple[float, int]:
    """Return (largest difference, ties) for dyadic weights and data, where ties are exact."""
    g = torch.Generator().manual_seed(5)

    def lattice(*shape: int) -> torch.Tensor:
        return torch.randint(-4, 5, shape, generator=g).double() / 4

    links = [Link("a", None, step), Link("b", "b.bias", step), Link("c")]
    params = {n: lattice(4, 4) for n in "abc"} | {"b.bias": lattice(4)}
    batch, worst, ties = Batch(lattice(64, 4), lattice(64, 4)), 0.0, 0
    for epsilon in (0.25, 0.5, 1.0):
        grads = flips.differences(links, params, list(params), batch, mse, True, [epsilon], 64)[0]
        for name, w in params.items():
            for i in range(w.numel()):
                ends = []
                for sign in (1, -1):
                    moved = w.clone()
                    moved.view(-1)[i] += sign * epsilon
                    run = chain.run(links, params | {name: moved}, batch, mse, True)
                    ends.append(float(run.losses.sum()))
                brute = (ends[0] - ends[1]) / (2 * epsilon * 64)
                worst = max(worst, abs(float(grads[0][name].view(-1)[i]) - brute))
    view = chain.run(links, params, batch, mse, True)
    for layer in view.layers[:2]:
        ties += sum(int((layer.pre == t).sum()) for t in step.thresholds)
    return worst, ties


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"float64; eps {EPSILONS}; largest |fast - brute| / largest |brute|")
    for hidden in (1, 2, 3, 5):
        model = ToyMLP(quantizer=FWBA, dim=6, hidden=hidden, out=3)
        p = prepare(Task(model=model, dataset=Gaussian(dim=6, n=500)), hidden)
        _tell(f"toy, {hidden} hidden, real inputs", _network(p, 500))
    _tell("benchmark network, dim 16", _network(problem(16, 2000), 2000))
    for criterion in ("mse", "ce"):
        task = Task(
            model=MLP(quantizer=FWBA, hidden=(8, 6), norm="batch"), dataset=Digits(),
            criterion=criterion, numerics=Numerics(batchnorm="running"),
        )  # fmt: skip
        _tell(f"digits mlp, batch norm, {criterion}", _network(prepare(task, 0), 100))
    for pool, head in itertools.product(("none", "average"), ("flatten", "average")):
        settings: Any = {"pool": pool, "head": head, "norm": "batch"}
        cnn = CNN(quantizer=FWBA, channels=(3, 4), **settings)
        task = Task(model=cnn, dataset=Digits(), numerics=Numerics(batchnorm="running"))
        _tell(f"digits cnn, pool {pool}, head {head}", _network(prepare(task, 0), 30))
    for name, step in LEVELS.items():
        worst, ties = _ties(step)
        print(f"{f'dyadic, {name}, {ties} exact ties':<36} absolute {worst:.1e}")


def _tell(label: str, errors: dict[str, float]) -> None:
    told = "  ".join(f"{k} {v:.0e}" for k, v in errors.items())
    print(f"{label:<36} {max(errors.values()):.1e}   {told}")


if __name__ == "__main__":
    main()
