"""Train any network with any estimator, from a script."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from sa.network.hooks import called
from sa.network.read import one_row
from sa.objective.batches import Batches
from sa.objective.evaluate import Evaluation
from sa.objective.loss import Loss
from sa.objective.problem import Problem
from sa.training.loop import Recipe, loop, start
from sa.types import Estimator, Numbers, Params, Splits


class _Values(Evaluation):
    """The scores of a plain function: its value."""

    def evaluate(self, params: Params, *args: Any, **kwargs: Any) -> Numbers:
        """Return the value at a point as ``train/loss``."""
        batch = self.data.train
        return {"train/loss": float(self.forward.rows(params, batch).detach().double().mean())}


def train(
    loss: Loss,
    estimator: Estimator,
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
    steps: int,
    *,
    batch_size: int | None = None,
    evaluate_every: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one row of numbers a step, from 0 to ``steps``; `loss.point` is the point after it.

    A row has the step, the loss, the norm of the gradient, the evals so far and the rate. The last
    one, and every ``evaluate_every``-th, also has the scores of training and held-out rows.

    >>> from sa.estimator.ste import STE
    >>> from sa.objective.loss import loss as of
    >>> bowl = of(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(2)})
    >>> rows = list(train(bowl, STE(), lambda ps: torch.optim.SGD(ps, lr=0.25), steps=2))
    >>> [row["loss"] for row in rows], bowl.point["w"].tolist()
    ([2.0, 0.5, 0.125], [0.25, 0.25])

    Args:
        loss: the loss of a network or a function, as `sa.loss` returns it.
        estimator: estimates the gradient of every step.
        optimizer: makes a torch optimizer from parameters.
        steps: how many steps to take, >= 1.
        batch_size: rows of one step, >= 1; None for all. Every epoch draws a new order.
        evaluate_every: steps between evaluations, >= 1; None evaluates at the end only.
        seed: the seed of the estimator's random numbers and of the order of the rows.
        recipe: schedule, average, goals and more; None adds nothing.

    Raises:
        ValueError: the settings and the loss do not go together; raised before the first step.

    """
    if steps < 1:
        raise ValueError(f"steps={steps}: expected at least 1")
    if batch_size is not None and not 1 <= batch_size <= loss.batch.rows:
        raise ValueError(f"batch_size={batch_size}: expected 1 to {loss.batch.rows}, or None")
    forward = loss.forward
    rows = batch_size or loss.batch.rows
    if why_not := one_row(forward.network, forward.numerics.batchnorm, rows):
        raise ValueError(
            f"batch_size=1: {why_not}; take 2 rows or more, or make the loss with "
            "batchnorm='running'"
        )
    recipe = recipe or Recipe()
    recipe.check(steps)
    called(estimator, "requires", loss.structure)
    called(estimator, "fits", loss.point)
    return _rows(loss, estimator, optimizer, steps, batch_size, evaluate_every, seed, recipe)


def _rows(
    loss: Loss,
    estimator: Estimator,
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
    steps: int,
    batch_size: int | None,
    evaluate_every: int | None,
    seed: int,
    recipe: Recipe,
) -> Iterator[dict[str, Any]]:
    evaluation = loss.evaluation or _Values(loss.forward, Splits(loss.batch, loss.batch))
    batches = Batches(loss.batch, batch_size, (seed,))
    problem = Problem(loss.forward, evaluation, batches, loss.point, seed)
    rows = loop(
        problem, estimator, optimizer, {}, steps=steps, progress=start(problem),
        evaluate_every=evaluate_every, recipe=recipe,
    )  # fmt: skip
    for row, progress in rows:
        loss.point = {k: p.detach().clone() for k, p in progress.params.items()}
        if isinstance(loss.heldout, Loss):
            loss.heldout.point = loss.point
        yield row
