"""What numbers are called: one name and unit in the terminal, in figures and on the page."""

import re
from typing import Any, NamedTuple


class Name(NamedTuple):
    """words: the name. relative: the number is divided by the loss at the point, and in percent."""

    words: str
    relative: bool = False
    percent: bool = False


NAMES = {
    "value": Name("loss at the point"),
    "alignment/cosine": Name("cosine to {reference}"),
    "alignment/scale": Name("scale against {reference}"),
    "alignment/ceiling": Name("cosine of {reference} to itself on held-out rows"),
    "descent/best": Name("best relative decrease", relative=True, percent=True),
    "descent/best_heldout": Name("held-out relative decrease", relative=True, percent=True),
    "descent/null_best": Name("best relative decrease of a random direction", True, True),
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
"""By column of a table of results. efficiency/ is measured relative to the loss already."""

DECREASE = "relative decrease of the loss"
"""What a curve of decreases over step lengths is called; in percent of the loss at the point."""


def words(column: str, reference: str = "CDG") -> str:
    """Return the name and unit of a column, ``best relative decrease (%)``.

    reference: the short name of the gradient compared with, as `reference` reads it. A column that
    has no name here is called as it is.
    """
    known = NAMES.get(column)
    told = bare(column, reference)
    return f"{told} (%)" if known is not None and known.percent else told


def bare(column: str, reference: str = "CDG") -> str:
    """Return the name of a column without its unit, for an axis whose ticks say the unit."""
    known = NAMES.get(column)
    return column if known is None else known.words.format(reference=reference)


def reference(target: str | None, epsilon: float | None = None) -> str:
    """The short name of a reference gradient by its class path: ``CDG`` or ``CDG (eps 0.1)``."""
    if not isinstance(target, str) or not target:
        return "CDG"
    name = re.sub(r".*\.", "", target)
    return name if epsilon is None or epsilon != epsilon else f"{name} (eps {epsilon:g})"


def number(value: Any) -> str:
    """Return a number of a result to four digits; ``undefined`` for null and NaN."""
    return "undefined" if value is None or value != value else f"{value:.4g}"
