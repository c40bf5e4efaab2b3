"""Compares estimators at one point: the direction, length and price of each."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from sa.analysis.alignment import Alignment
from sa.config.catalogue import options, plain
from sa.config.component import make
from sa.config.error import UsageError, nearest
from sa.network.hooks import called, label
from sa.objective.loss import Loss
from sa.params import stream
from sa.types import Estimator

if TYPE_CHECKING:
    import pandas as pd


def named(estimator: str | Estimator) -> tuple[str, Estimator]:
    """Return the name and the estimator of an option (``"nes"``), or of an estimator itself."""
    if not isinstance(estimator, str):
        return _label(estimator), estimator
    if estimator not in options("estimator"):
        there = ", ".join(options("estimator"))
        close = nearest(estimator, options("estimator"))
        hint = f"; did you mean {close}?" if close else ""
        raise UsageError(f"{estimator}: there is no such estimator{hint} There are: {there}")
    return estimator, make("estimator", plain("estimator", estimator))


def _label(estimator: Any) -> str:
    """Return the name of an estimator, with the settings that differ from their defaults."""
    known = fields(estimator) if is_dataclass(estimator) else ()
    own = {f.name: vars(estimator)[f.name] for f in known if vars(estimator)[f.name] != f.default}
    settings = (f"{k}={v}" for k, v in own.items())
    return " ".join([label(estimator), *settings])


def compare(
    loss: Loss,
    estimators: Sequence[str | Estimator],
    truth: str | Estimator = "cdg",
    seeds: int | Sequence[int] = 5,
) -> "pd.DataFrame":
    """Return a table of estimators against a true gradient at `loss.point`: a row for each seed.

    The columns are: ``estimator``; ``seed``; ``target``, the gradient that it estimates;
    ``cosine`` to the truth; ``scale``, its length along the truth (1 is right); ``evals``, its
    price in evaluations of the loss; ``loss`` at the point; ``caution``, the reason if a cosine
    below 1 may be no defect, else ''.

    >>> import torch
    >>> from sa.objective.loss import loss as of
    >>> bowl = of(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(2, dtype=torch.float64)})
    >>> table = compare(bowl, ["ste", "random"], seeds=1)
    >>> [round(x, 6) for x in table["cosine"]][0], list(table["target"])
    (1.0, ['surrogate', 'none'])

    Args:
        loss: the loss, as `sa.loss` returns it.
        estimators: names of options, such as ``"ste_clipped"``, or estimators.
        truth: the reference; cdg is the exact gradient of the loss smoothed over a box.
        seeds: how many seeds, which count from 0, or a list of seeds.

    Raises:
        UsageError: a name is no option of ``estimator``.
        ValueError: an estimator does not work with this loss.

    """
    import pandas as pd

    name, reference = named(truth)
    every = [named(x) for x in estimators]
    for _, estimator in [*every, (name, reference)]:
        called(estimator, "requires", loss.structure)
        called(estimator, "fits", loss.point)
    alignment = Alignment({name: reference})
    every_seed = range(seeds) if isinstance(seeds, int) else seeds
    rows = [_row(loss, *x, s, alignment, reference) for x in every for s in every_seed]
    return pd.DataFrame(rows)


def _row(
    loss: Loss, name: str, estimator: Estimator, seed: int, alignment: Alignment, truth: Estimator
) -> dict[str, Any]:
    """Return the row of the table for an estimator and a seed."""
    generator = stream(seed, "estimator", 0, device=str(loss.batch.inputs.device))
    estimate = estimator(loss, loss.point, estimator.init(loss.point), generator)
    numbers = alignment(loss, loss.point, estimate, generator)
    other = estimator.target != truth.target
    return {
        "estimator": name,
        "seed": seed,
        "target": estimator.target,
        "cosine": numbers["alignment/cosine"],
        "scale": numbers["alignment/scale"],
        "evals": estimate.evals,
        "loss": float(estimate.value),
        "caution": f"estimates {estimator.target}, the truth {truth.target}" if other else "",
    }
