"""Command `python -m benchmarks.grid`: how long a grid of dims x samples x sigma takes.

The grid is that of the founding notes (docs/claims.md). NES pays for every sample, so it is timed
on a few samples and scaled. `local_nes` estimates the same gradients; its whole grid is run.
"""

import time

import torch

from benchmarks.cdg import ROWS
from sa.dataset.gaussian import Gaussian
from sa.estimator.local_nes import LocalNES
from sa.estimator.nes import NES
from sa.model.toy_mlp import ToyMLP
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import flatten, stream
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Estimator, Slots

DIMS, SAMPLES = (8, 16, 32, 64), (500, 5_000, 50_000)
SIGMAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TIMED = 200


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{ROWS} rows, 3 hidden layers, float64, one thread; {len(SIGMAS)} sigmas")
    print(
        f"{'dim':>4}{'nes, all N':>14}{'local_nes':>12}   relative error of one local_nes estimate"
    )
    total = [0.0, 0.0]
    for dim in DIMS:
        model = ToyMLP(quantizer=Slots(Identity(), Sign()), dim=dim)
        p = prepare(Task(model=model, dataset=Gaussian(dim=dim, n=ROWS)), 0)
        f = p.objective(p.batch(0))

        def spent(estimator: Estimator, seed: int, f=f, p=p) -> tuple[float, torch.Tensor]:
            began = time.perf_counter()
            grad = flatten(estimator(f, p.params, {}, stream(seed, "grid")).grad)
            return time.perf_counter() - began, grad

        spent(NES(samples=10), 0)
        nes = spent(NES(samples=TIMED), 0)[0] / TIMED * sum(SAMPLES) * len(SIGMAS)
        local, errors = 0.0, []
        for sigma in SIGMAS:
            (once, a), (again, b) = (spent(LocalNES(sigma=sigma, samples=8), s) for s in (1, 2))
            local += (once + again) / 2
            errors.append(float((a - b).norm() / 2**0.5 / ((a + b) / 2).norm()))
        total[0], total[1] = total[0] + nes, total[1] + local
        told = " ".join(f"{e:.3f}" for e in errors)
        print(f"{dim:>4}{nes / 60:>10.1f} min{local:>10.1f} s   {told}", flush=True)
    print(f"{'all':>4}{total[0] / 60:>10.1f} min{total[1]:>10.1f} s")


if __name__ == "__main__":
    main()
