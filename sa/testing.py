"""Laws that every estimator must keep, for a class of your own.

From the command line: `python -m sa.testing MODULE:CLASS`.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sa.network.hooks import trait
from sa.objective.function import from_function
from sa.objective.objective import Objective
from sa.params import flatten
from sa.types import Estimate, Estimator, Moment, Params

TARGETS = ("true", "box", "cube", "gaussian", "ball", "stochastic", "surrogate", "none")
"""The values that ``target`` of an estimator may have: what its gradient is an estimate of."""

_DRAWS = 150
"""Number of estimates in the test of unbiasedness."""


class Broken(AssertionError):
    """Raised if a law does not hold; the message says by how much."""


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


def check_estimator(make: Callable[[], Estimator]) -> dict[str, str]:
    """Return the laws that an estimator breaks: {law: its fault}; {} if it breaks none.

    - ``target``: the estimator declares what its gradient is an estimate of.
    - ``shapes``: the gradient has the names, shapes and dtypes of the point, also in float32.
    - ``repeats``: two calls with generators in the same state return the same gradient, and no
      random number comes from elsewhere.
    - ``untouched``: the point does not change.
    - ``evals``: the estimator reports the evals that it spends.
    - ``unbiased``: on a quadratic, the mean of 150 estimates is within 4 standard errors of the
      gradient.
    - ``constant``: a constant added to the loss does not change the gradient.
    - ``points``: the point may have 0-dim and transposed tensors.

    A class that breaks a law on purpose declares it, with the reason:
    ``laws = {"unbiased": "it is a displacement"}``. Such laws are not checked.

    >>> from sa.estimator.nes import NES
    >>> check_estimator(NES)
    {}

    Args:
        make: the class of the estimator, or a function without arguments that returns one.

    """
    broken = {}
    excused: Mapping[str, str] = trait(make(), "laws")
    for name, law in _LAWS.items():
        if name in excused:
            continue
        try:
            law(make())
        except Broken as error:
            broken[name] = str(error)
        except Exception as error:  # the class is not ours: report any error as a broken law
            broken[name] = f"{type(error).__name__}: {error}"
    return broken


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


_LAWS: dict[str, Callable[[Estimator], None]] = {
    "target": _target,
    "shapes": _shapes,
    "repeats": _repeats,
    "untouched": _untouched,
    "evals": _evals,
    "unbiased": _unbiased,
    "constant": _constant,
    "points": _points,
}


def report(broken: Mapping[str, str], excused: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each law: BROKEN, excused or holds, and the reason.

    Args:
        broken: the laws that do not hold, as `check_estimator` returns them.
        excused: the laws that the estimator breaks on purpose.

    """
    for name in _LAWS:
        if name in broken:
            yield f"BROKEN   {name}: {broken[name]}"
        elif name in excused:
            yield f"excused  {name}: {excused[name]}"
        else:
            yield f"holds    {name}"


def main() -> None:
    """Check the class on the command line; exit with 1 if it breaks a law, 2 if it is not found."""
    words = sys.argv[1:]
    module, _, name = words[0].partition(":") if len(words) == 1 else ("", "", "")
    if not name:
        sys.exit("usage: python -m sa.testing MODULE:CLASS, e.g. sa.estimator.nes:NES")
    sys.path.insert(0, "")
    try:
        made = vars(importlib.import_module(module))[name]
    except (ImportError, KeyError) as error:
        print(
            f"sa: {words[0]}: there is no such class ({error}); type MODULE:CLASS, e.g. "
            "sa.estimator.nes:NES",
            file=sys.stderr,
        )
        sys.exit(2)
    if not isinstance(made, type) or not isinstance(made(), Estimator):
        print(
            f"sa: {words[0]}: expected the class of an estimator, e.g. sa.estimator.nes:NES",
            file=sys.stderr,
        )
        sys.exit(2)
    broken = check_estimator(made)
    print("\n".join(report(broken, trait(made(), "laws"))))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
