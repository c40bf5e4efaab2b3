"""The losses that the laws of estimators are tested on, with their gradients."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sa import surrogate
from sa.network.hooks import called
from sa.objective.function import RowFunction
from sa.objective.loss import Loss, loss
from sa.objective.objective import Objective
from sa.params import flatten
from sa.types import Batch, Estimator, Params

_DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A loss with a point, and its gradient there.

    Args:
        objective: (factor, constant) -> factor times the loss, plus the constant.
        point: the point.
        gradient: the gradient at the point, flat.
        layouts: other points of the loss: what is special about their tensors -> the point.

    """

    objective: Callable[[float, float], Objective]
    point: Params
    gradient: Tensor
    layouts: Mapping[str, Params]


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=_DOUBLE)


def _function(
    losses: Callable[[Tensor, int], Tensor], w: Tensor, gradient: Tensor, rows: int = 1
) -> Case:
    """Return the case of a function of 6 numbers.

    Args:
        losses: (the numbers, how many rows) -> row losses.
        w: the numbers of the point.
        gradient: the gradient there.
        rows: number of rows.

    """

    def objective(factor: float, constant: float) -> Objective:
        def each(p: Params, batch: Batch) -> Tensor:
            flat = torch.cat([v.reshape(-1) for _, v in sorted(p.items())])  # in any order
            return factor * losses(flat, batch.rows) + constant

        none = torch.zeros(rows, 0)
        return Objective(RowFunction(each, vectorized=rows == 1), Batch(none, none))

    layouts = {"0-dim": {"gain": w[0], "w": w[1:]}, "transposed": {"w": w.view(2, 3).T}}
    return Case(objective, {"m": w[:4].view(2, 2), "v": w[4:]}, gradient, layouts)


def bowl(dtype: torch.dtype = _DOUBLE) -> Case:
    """Return the quadratic w'Hw/2 + b'w; smoothing adds a constant to it."""
    a = _normal(6, 6, seed=1)
    h, b, w = (x.to(dtype) for x in ((a + a.T) / 2, _normal(6, seed=2), _normal(6, seed=3)))
    return _function(lambda x, rows: (x @ h @ x / 2 + b @ x).reshape(1), w, h @ w + b)


def coins(dtype: torch.dtype = _DOUBLE) -> Case:
    """Return the mean of a cubic of 6 random units with logits w, which all states give exactly."""
    weights, w = _normal(6, seed=4).to(dtype), _normal(6, seed=5).to(dtype)

    def cubic(states: Tensor) -> Tensor:  # (rows, 6) -> (rows,)
        return (states @ weights - 1) ** 3

    leaf = w.clone().requires_grad_()
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=dtype)
    chance = nn.functional.logsigmoid(states * leaf).sum(1).exp()
    (gradient,) = torch.autograd.grad((chance * cubic(states)).sum(), leaf)
    return _function(
        lambda x, rows: cubic(surrogate.bernoulli(x.expand(rows, -1))), w, gradient, rows=100
    )


class _Net(nn.Module):
    """One affine map, or two with signs between them."""

    def __init__(self, steps: bool) -> None:
        super().__init__()
        sizes = [(3, 4), (4, 3)] if steps else [(3, 3)]
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights globally
            self.maps = nn.ModuleList(nn.Linear(n, m) for n, m in sizes)
        for seed, p in enumerate(self.parameters()):
            p.data = _normal(*p.shape, seed=10 + seed)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.maps[:-1]:
            x = surrogate.sign(layer(x))
        out: Tensor = self.maps[-1](x)
        return out


def network(steps: bool, dtype: torch.dtype = _DOUBLE) -> Case:
    """Return the squared error of a chain: of one affine map, a quadratic, or with signs."""
    rows = (_normal(8, 3, seed=6), _normal(8, 3, seed=7))

    def objective(factor: float, constant: float) -> Loss:
        def error(outputs: Tensor, targets: Tensor) -> Tensor:
            return factor * (outputs - targets).square().sum(1) + constant

        return loss(_Net(steps), rows, criterion=error, dtype=dtype)

    plain = objective(1.0, 0.0)
    _, gradient = plain.value_and_grad(plain.point)
    turned = {k: p.t().contiguous().t() for k, p in plain.point.items()}
    return Case(objective, plain.point, flatten(gradient), {"transposed": turned})


def _quadratics(dtype: torch.dtype) -> Iterator[Case]:
    yield bowl(dtype)
    yield network(False, dtype)
    yield network(True, dtype)


def case(estimator: Estimator, dtype: torch.dtype = _DOUBLE) -> Case:
    """Return the first loss that an estimator accepts, by what it requires.

    An estimator of target ``stochastic`` gets random units. The others get a plain quadratic, or
    else an affine map with squared error, or else a network with steps.

    Raises:
        ValueError: it accepts none of them.

    """
    if estimator.target == "stochastic":
        return coins(dtype)
    why = ""
    for made in _quadratics(dtype):
        try:
            called(estimator, "requires", made.objective(1.0, 0.0).structure)
            called(estimator, "fits", made.point)
            return made
        except ValueError as error:
            why = str(error)
    raise ValueError(f"it accepts no small loss, not even a network of two layers: {why}")
