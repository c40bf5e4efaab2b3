"""The laws of analyses, on a small network with steps and a gradient of random numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sa import surrogate
from sa.objective.loss import Loss, loss
from sa.testing.broken import Broken, without_global_draws
from sa.types import Analysis, Estimate, Moment, Numbers


class _Network(nn.Module):
    """Two affine maps with signs between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(surrogate.sign(self.first(x)))


def _problem() -> tuple[Loss, Estimate]:
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _Network()
    splits = [
        (torch.randn(40, 3, generator=draw), torch.randint(0, 2, (40,), generator=draw))
        for _ in range(2)
    ]
    objective = loss(network, splits[0], heldout=splits[1])
    point = objective.point
    grad = {k: torch.randn(p.shape, generator=draw, dtype=p.dtype) for k, p in point.items()}
    return objective, Estimate(objective.value(point), grad, 1.0)


def _measure(analysis: Analysis) -> Numbers:
    objective, estimate = _problem()
    generator = torch.Generator().manual_seed(1)
    return analysis(objective, objective.point, estimate, generator, Moment(lr=0.1))


def _numbers(analysis: Analysis) -> None:
    got = _measure(analysis)
    for key, value in got.items():
        curve = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        if not (isinstance(value, int | float | str) or curve):
            raise Broken(f"'{key}' is {type(value).__name__}; expected a number, text or a list")
    if len({key.partition("/")[0] for key in got}) > 1:
        raise Broken(f"its keys begin with several names: {', '.join(got)}; use its own, NAME/KEY")


def _repeats(analysis: Analysis) -> None:
    one, two = without_global_draws(lambda: (_measure(analysis), _measure(analysis)))
    timed = ("seconds", "time")
    for key in {**one, **two}:
        same = repr(one.get(key)) == repr(two.get(key))  # repr, so that NaN equals NaN
        if not same and not any(word in key for word in timed):
            raise Broken(f"'{key}' differs between two calls with one generator's state")


def _untouched(analysis: Analysis) -> None:
    objective, estimate = _problem()
    point = {k: p.clone() for k, p in objective.point.items()}
    kept: dict[str, Any] = {k: g.clone() for k, g in estimate.grad.items()}
    analysis(objective, objective.point, estimate, torch.Generator(), Moment(lr=0.1))
    for name in point:
        if not torch.equal(objective.point[name], point[name]):
            raise Broken(f"it changes '{name}' of the point in place; copy it first")
        if not torch.equal(estimate.grad[name], kept[name]):
            raise Broken(f"it changes '{name}' of the gradient in place; copy it first")


LAWS: dict[str, Callable[[Analysis], None]] = {
    "numbers": _numbers,
    "repeats": _repeats,
    "untouched": _untouched,
}
