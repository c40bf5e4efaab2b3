"""The names and units of results, the same in the terminal, in figures and on the page."""

import re
from typing import Any, NamedTuple


class Name(NamedTuple):
    """The name and unit of a result.

    Args:
        words: the name.
        relative: tables divide the result by the loss at the point.
        percent: tables show the result in percent.

    """

    words: str
    relative: bool = False
    percent: bool = False


NAMES = {
    "value": Name("loss at the point"),
    "alignment/cosine": Name("cosine to {reference}"),
    "alignment/scale": Name("scale against {reference}"),
    "alignment/ceiling": Name("cosine of {reference} to itself on held-out rows"),
    "decrease": Name("relative decrease of the whole step", relative=True, percent=True),
    "descent/best": Name("best relative decrease", relative=True, percent=True),
    "descent/best_heldout": Name("held-out relative decrease", relative=True, percent=True),
    "descent/null_best": Name("best relative decrease of a random direction", True, True),
    "descent/null_heldout": Name("held-out relative decrease of a random direction", True, True),
    "descent/ratio": Name("best decrease / that of {reference}"),
    "efficiency/at_evals/cosine": Name("cosine to {reference}, equal evals"),
    "efficiency/at_evals/decrease": Name("relative decrease, equal evals", percent=True),
    "efficiency/at_evals/heldout": Name("held-out relative decrease, equal evals", percent=True),
    "training/ratio": Name("loss after training / loss before"),
    "train/loss": Name("training loss"),
    "test/loss": Name("test loss"),
    "train/accuracy": Name("training accuracy", percent=True),
    "test/accuracy": Name("test accuracy", percent=True),
    "evals": Name("evals (forward-equivalents)"),
    "seconds": Name("seconds"),
}
"""Names by column. ``efficiency/`` is relative to the loss already when it is measured."""

DECREASE = "relative decrease of the loss"
"""The name of a curve of decreases over step lengths, in percent of the loss at the point."""


def words(column: str, reference: str = "CDG") -> str:
    """Return the name and unit of a column, ``best relative decrease (%)``.

    A column that is not in `NAMES` keeps its own name.

    Args:
        column: the column of a table.
        reference: the short name of the reference gradient, as `reference` returns it.

    """
    known = NAMES.get(column)
    name = bare(column, reference)
    return f"{name} (%)" if known is not None and known.percent else name


def bare(column: str, reference: str = "CDG") -> str:
    """Return the name of a column without its unit, for an axis whose ticks say the unit."""
    known = NAMES.get(column)
    return column if known is None else known.words.format(reference=reference)


def reference(target: str | None, epsilon: float | None = None) -> str:
    """Return the short name of a reference gradient: ``CDG`` or ``CDG (eps 0.1)``.

    Args:
        target: the path of its class; CDG without one.
        epsilon: its half-width, if it has one.

    """
    if not isinstance(target, str) or not target:
        return "CDG"
    name = re.sub(r".*\.", "", target)
    return name if epsilon is None or epsilon != epsilon else f"{name} (eps {epsilon:g})"


def number(value: Any) -> str:
    """Return a result to four digits; ``undefined`` for null and NaN."""
    return "undefined" if value is None or value != value else f"{value:.4g}"
