"""The laws of estimators, on a quadratic whose gradient is known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sa.objective.function import from_function
from sa.objective.objective import Objective
from sa.params import flatten
from sa.testing.broken import Broken
from sa.types import Estimate, Estimator, Moment, Params

TARGETS = ("true", "box", "cube", "gaussian", "ball", "stochastic", "surrogate", "none")
"""The values that ``target`` of an estimator may have: what its gradient is an estimate of."""

_DRAWS = 150
"""Number of estimates in the test of unbiasedness."""


class _Counting(Objective):
    """An objective that counts the evals spent on it, in ``spent``."""

    spent = 0.0

    def value(self, params: Params) -> Tensor:
        self.spent += 1
        return super().value(params)

    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        self.spent += len(next(iter(stack.values())))
        return super().values(stack, base)

    def directional(self, params: Params, stack: Params) -> Tensor:
        self.spent += len(next(iter(stack.values())))
        return super().directional(params, stack)

    def value_and_grad(self, *args: Any, **settings: Any) -> tuple[Tensor, Params]:
        self.spent += 3
        return super().value_and_grad(*args, **settings)


class _Bowl:
    """The quadratic f(w) = w'Hw/2 + b'w + constant, with gradient Hw + b; w is in two tensors."""

    def __init__(self, dtype: torch.dtype = torch.float64, constant: float = 0.0):
        draw = torch.Generator().manual_seed(1)
        a = torch.randn(6, 6, generator=draw, dtype=torch.float64)
        self.h, self.constant = ((a + a.T) / 2).to(dtype), constant
        self.b = torch.randn(6, generator=draw, dtype=torch.float64).to(dtype)
        w = torch.randn(6, generator=draw, dtype=torch.float64).to(dtype)
        self.point = {"m": w[:4].view(2, 2), "v": w[4:]}
        self.gradient = self.h @ w + self.b

    def __call__(self, params: Params) -> Tensor:
        w = torch.cat([params["m"].flatten(), params["v"]])
        return w @ self.h @ w / 2 + self.b @ w + self.constant


def _run(estimator: Estimator, objective: Objective, point: Params, seed: int = 0) -> Estimate:
    """Return one estimate of the estimator at a point."""
    generator = torch.Generator().manual_seed(seed)
    return estimator(objective, point, estimator.init(point), generator, Moment(lr=0.1))


def _on(bowl: Callable[[Params], Tensor]) -> Objective:
    """Return a function as an objective."""
    return from_function(bowl, vectorized=True)


def _target(estimator: Estimator) -> None:
    """Raise Broken if ``target`` is not declared."""
    if estimator.target not in TARGETS:
        raise Broken(f"target={estimator.target!r}: expected one of {', '.join(TARGETS)}")


def _shapes(estimator: Estimator) -> None:
    """Raise Broken if names, shapes or dtypes of the gradient are not those of the point."""
    for dtype in (torch.float64, torch.float32):
        bowl = _Bowl(dtype)
        got = _run(estimator, _on(bowl), bowl.point)
        if list(got.grad) != list(bowl.point):
            raise Broken(
                f"the gradient has the names {list(got.grad)}; expected those of the point, "
                f"{list(bowl.point)}"
            )
        for k, p in bowl.point.items():
            mine = got.grad[k]
            if mine.shape != p.shape:
                raise Broken(f"'{k}' has shape {tuple(mine.shape)}; expected {tuple(p.shape)}")
            if mine.dtype != p.dtype:
                raise Broken(f"'{k}' is {mine.dtype}; expected {p.dtype}, like the point")
        if got.value.shape != () or got.value.dtype != torch.float64:
            raise Broken(
                f"value is {got.value.dtype} of shape {tuple(got.value.shape)}; expected the loss "
                "at the point, a 0-dim float64 tensor"
            )


def _repeats(estimator: Estimator) -> None:
    """Raise Broken if a repeated call differs, or draws from another generator."""
    bowl = _Bowl()
    before = torch.get_rng_state()
    one, two = (flatten(_run(estimator, _on(bowl), bowl.point).grad) for _ in range(2))
    if not torch.equal(before, torch.get_rng_state()):
        raise Broken("it draws from torch's global generator; draw from `generator` alone")
    if not torch.equal(one, two):
        apart = float((one - two).abs().max())
        raise Broken(f"two calls with generators in the same state differ by {apart:.3g}")


def _untouched(estimator: Estimator) -> None:
    """Raise Broken if the estimator changes the point."""
    bowl = _Bowl()
    before = {k: p.clone() for k, p in bowl.point.items()}
    _run(estimator, _on(bowl), bowl.point)
    for k, p in bowl.point.items():
        if not torch.equal(p, before[k]):
            raise Broken(f"it changes '{k}' of the point in place; copy it first")


def _evals(estimator: Estimator) -> None:
    """Raise Broken if the reported evals are not the evals spent."""
    plain = _on(bowl := _Bowl())
    counting = _Counting(plain.forward, plain.batch)
    got = _run(estimator, counting, bowl.point)
    if got.evals != counting.spent:
        raise Broken(f"it reports {got.evals:g} evals and spends {counting.spent:g}")


def _unbiased(estimator: Estimator) -> None:
    """Raise Broken if the mean of many estimates is not the gradient of a quadratic."""
    bowl = _Bowl()
    draws = torch.stack(
        [flatten(_run(estimator, _on(bowl), bowl.point, seed).grad) for seed in range(_DRAWS)]
    )
    truth = bowl.gradient
    error = draws.std(0) / _DRAWS**0.5 + 1e-9
    apart = float(((draws.mean(0) - truth).abs() / error).max())
    if apart > 4:
        length = float(draws.mean(0) @ truth / (truth @ truth))
        raise Broken(
            f"the mean of {_DRAWS} estimates is {apart:.3g} standard errors away from the gradient "
            f"of a quadratic; along that gradient its length is {length:.3g} (expected 1)"
        )


def _constant(estimator: Estimator) -> None:
    """Raise Broken if a constant added to the loss changes the gradient."""
    bowl, moved = _Bowl(), _Bowl(constant=100.0)
    one, two = (flatten(_run(estimator, _on(b), b.point).grad) for b in (bowl, moved))
    apart = float((one - two).abs().max())
    if apart > 1e-9:
        raise Broken(
            f"adding 100 to the loss changes the gradient by {apart:.3g}; subtract a baseline from "
            "the loss"
        )


def _points(estimator: Estimator) -> None:
    """Raise Broken if 0-dim or transposed tensors of a point do not work."""
    wide = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    points: dict[str, Params] = {
        "0-dim": {"gain": torch.tensor(2.0, dtype=torch.float64), "w": wide[0]},
        "transposed": {"w": wide.T},
    }
    for name, point in points.items():
        objective = _on(lambda p: torch.stack([(v**2).sum() for v in p.values()]).sum())
        got = _run(estimator, objective, point)
        for k, p in point.items():
            if got.grad[k].shape != p.shape:
                shape = tuple(got.grad[k].shape)
                raise Broken(f"at a {name} point '{k}' has shape {shape}, not {tuple(p.shape)}")


LAWS: dict[str, Callable[[Estimator], None]] = {
    "target": _target,
    "shapes": _shapes,
    "repeats": _repeats,
    "untouched": _untouched,
    "evals": _evals,
    "unbiased": _unbiased,
    "constant": _constant,
    "points": _points,
}
