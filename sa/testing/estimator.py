"""The laws of estimators, on losses whose gradients are known."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sa.objective.objective import Objective
from sa.params import flatten
from sa.testing.broken import Broken, without_global_draws
from sa.testing.losses import Case, case
from sa.types import Batch, Estimate, Estimator, Moment, Params

TARGETS = ("true", "box", "cube", "gaussian", "ball", "stochastic", "surrogate", "none")
"""The values that ``target`` of an estimator may have: what its gradient is an estimate of."""

_DRAWS = {2: math.inf, 5: 50.0, 40: 10.0, 150: 4.0}
"""How many estimates to look at -> how many standard errors off their mean must be to be wrong."""

_SHARP = 0.1
"""An error of this share of the gradient must be more than 4 standard errors to stop earlier."""


class _Counting(Objective):
    """An objective that counts the evals spent on it.

    Args:
        plain: the objective.
        units: whether to count evaluations of row losses, which estimators of random units call.

    """

    def __init__(self, plain: Objective, units: bool):
        super().__init__(plain.forward, plain.batch)
        self.units, self.own, self.hessians = units, 0.0, list[Any]()

    @property
    def spent(self) -> float:
        """Return the evals spent; products with a Hessian count as it counts them."""
        return self.own + sum(h.evals for h in self.hessians)

    def _count(self, evals: float) -> None:
        self.own += 0 if self.units else evals

    def rows(self, params: Params, batch: Batch) -> Tensor:
        out = super().rows(params, batch)
        if self.units:
            self.own += 3 if out.requires_grad else 1
        return out

    def value(self, params: Params) -> Tensor:
        self._count(1)
        return super().value(params)

    def values(self, stack: Params, base: Params | None = None) -> Tensor:
        self._count(len(next(iter(stack.values()))))
        return super().values(stack, base)

    def directional(self, params: Params, stack: Params) -> Tensor:
        self._count(len(next(iter(stack.values()))))
        return super().directional(params, stack)

    def value_and_grad(self, *args: Any, **settings: Any) -> tuple[Tensor, Params]:
        self._count(3)
        return super().value_and_grad(*args, **settings)

    def curvature(self, *args: Any, **settings: Any) -> Any:
        found = super().curvature(*args, **settings)
        if settings.get("gradient") is None:  # that one spends evals of this objective
            self.hessians.append(found)
        return found


def _run(estimator: Estimator, objective: Objective, point: Params, seed: int = 0) -> Estimate:
    """Return one estimate of the estimator at a point; raise Broken if it returns another thing."""
    generator = torch.Generator().manual_seed(seed)
    got = estimator(objective, point, estimator.init(point), generator, Moment(lr=0.1))
    if not (isinstance(got, Estimate) and isinstance(got.grad, Mapping)):
        what = f"a {type(got).__name__}"
        if isinstance(got, Estimate):
            what = f"an Estimate whose grad is a {type(got.grad).__name__}"
        raise Broken(f"it returned {what}; expected Estimate(value, {{name: tensor}}, evals)")
    return got


def _grad(
    estimator: Estimator, given: Case, factor: float = 1.0, constant: float = 0.0, seed: int = 0
) -> Tensor:
    """Return one gradient, flat, at the point of a loss that is multiplied, or moved."""
    return flatten(_run(estimator, given.objective(factor, constant), given.point, seed).grad)


def _target(estimator: Estimator) -> None:
    """Raise Broken if ``target`` is not declared."""
    if estimator.target not in TARGETS:
        raise Broken(f"target={estimator.target!r}: expected one of {', '.join(TARGETS)}")


def _shapes(estimator: Estimator) -> None:
    """Raise Broken if names, shapes or dtypes of the gradient are not those of the point."""
    for dtype in (torch.float64, torch.float32):
        given = case(estimator, dtype)
        got = _run(estimator, given.objective(1.0, 0.0), given.point)
        if list(got.grad) != list(given.point):
            raise Broken(
                f"the gradient has the names {list(got.grad)}; expected those of the point, "
                f"{list(given.point)}"
            )
        for k, p in given.point.items():
            mine = got.grad[k]
            if mine.shape != p.shape:
                raise Broken(f"'{k}' has shape {tuple(mine.shape)}; expected {tuple(p.shape)}")
            if mine.dtype != p.dtype:
                raise Broken(f"'{k}' is {mine.dtype}; expected {p.dtype}, like the point")
            if not mine.isfinite().all():
                raise Broken(f"'{k}' is not finite for a point of {p.dtype}")
        if got.value.shape != () or got.value.dtype != torch.float64:
            raise Broken(
                f"value is {got.value.dtype} of shape {tuple(got.value.shape)}; expected the loss "
                "at the point, a 0-dim float64 tensor"
            )


def _repeats(estimator: Estimator) -> None:
    """Raise Broken if a repeated call differs, or draws from another generator."""
    given = case(estimator)
    one, two = without_global_draws(
        lambda: (_grad(estimator, given), _grad(estimator, given)), "`generator`"
    )
    if not torch.equal(one, two):
        apart = float((one - two).abs().max())
        raise Broken(f"two calls with generators in the same state differ by {apart:.3g}")


def _untouched(estimator: Estimator) -> None:
    """Raise Broken if the estimator changes the point."""
    given = case(estimator)
    before = {k: p.clone() for k, p in given.point.items()}
    _run(estimator, given.objective(1.0, 0.0), given.point)
    for k, p in given.point.items():
        if not torch.equal(p, before[k]):
            raise Broken(f"it changes '{k}' of the point in place; copy it first")


def _evals(estimator: Estimator) -> None:
    """Raise Broken if the reported evals are not the evals spent."""
    given = case(estimator)
    counting = _Counting(given.objective(1.0, 0.0), units=estimator.target == "stochastic")
    got = _run(estimator, counting, given.point)
    if got.evals != counting.spent:
        raise Broken(f"it reports {got.evals:g} evals and spends {counting.spent:g}")


def _unbiased(estimator: Estimator) -> None:
    """Raise Broken if the mean of many estimates is not the gradient, or not as long."""
    given = case(estimator)
    objective, truth, draws = given.objective(1.0, 0.0), given.gradient, list[Tensor]()
    along = torch.cat([torch.eye(len(truth)).to(truth), truth[:, None] / truth.norm()], 1)
    for count, far in _DRAWS.items():
        for seed in range(len(draws), count):
            draws.append(flatten(_run(estimator, objective, given.point, seed).grad))
        off = (torch.stack(draws) - truth) @ along
        error = off.std(0) / count**0.5 + 1e-9
        apart = float((off.mean(0).abs() / error).max())
        draws_nothing = count == 2 and torch.allclose(draws[0], draws[1], rtol=1e-12)
        if apart > (4.0 if draws_nothing else far):
            length = 1 + float(off.mean(0)[-1] / truth.norm())
            raise Broken(
                f"the mean of {count} estimates is {apart:.3g} standard errors away from the "
                f"gradient; along that gradient its length is {length:.3g} (expected 1)"
            )
        sharp = count > 5 and apart < 4 and 4 * error[:-1].norm() < _SHARP * truth.norm()
        if draws_nothing or sharp:
            return


def _constant(estimator: Estimator) -> None:
    """Raise Broken if a constant added to the loss changes the gradient."""
    given = case(estimator)
    one, two = _grad(estimator, given), _grad(estimator, given, constant=100.0)
    apart = float((one - two).abs().max())
    if apart > 1e-9:
        raise Broken(
            f"adding 100 to the loss changes the gradient by {apart:.3g}; subtract a baseline from "
            "the loss"
        )


def _scale(estimator: Estimator) -> None:
    """Raise Broken if 3 times the loss has not 3 times the gradient."""
    given = case(estimator)
    one, three = _grad(estimator, given), _grad(estimator, given, factor=3.0)
    if not torch.allclose(three, 3 * one, rtol=1e-9, atol=1e-9):
        times = float(three @ one / (one @ one))
        raise Broken(f"3 times the loss has {times:.3g} times the gradient; expected 3")


def _points(estimator: Estimator) -> None:
    """Raise Broken if 0-dim or transposed tensors of a point do not work."""
    given = case(estimator)
    for name, point in given.layouts.items():
        got = _run(estimator, given.objective(1.0, 0.0), point)
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
    "scale": _scale,
    "points": _points,
}
