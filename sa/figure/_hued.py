"""A figure of loss decreases with one setting as colours, and only the best of other settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from sa.figure._settings import column, settings, short_names, texts
from sa.table.grouping import configurations
from sa.table.results import relative

KINDS = ("lr_decrease", "best_decrease")
"""The kinds that can be drawn in this way."""


@dataclass(frozen=True)
class Hued:
    """A kind with a colour for each value of one setting, in place of the estimators' labels.

    Other settings that vary are drawn in separate rows of panels.

    Args:
        kind: one of `KINDS`.
        hue: the setting with a colour for each of its values.
        best: settings of which the figure shows only the best: of runs that differ in these
            settings and in the seed, those with the largest mean decrease on held-out rows (on the
            batch, if there are no held-out rows).
        name: the name of its files; by default the kind.

    """

    kind: str
    hue: str
    best: Sequence[str] = ()
    name: str = ""

    @property
    def file(self) -> str:
        """The name of its files, without an ending."""
        return self.name or self.kind

    def prepare(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the runs that are drawn, with the hue as ``label``.

        ``attrs["hue"]`` is the short name of the hue, and ``attrs["best"]`` a text for the caption.
        The settings of ``best`` are listed in ``attrs["chosen"]``; they make no rows of panels.
        """
        shown = self._best(table)
        out = shown.assign(label=texts(column(shown, self.hue)))
        out.attrs["hue"] = short_names([self.hue])[self.hue]
        if self.best:
            words = ", ".join(short_names(self.best).values())
            out.attrs["best"] = f"the {words} with the largest held-out decrease"
            out.attrs["chosen"] = [c for c in self.best if c in out]
            out.attrs["settings"] = [c for c in settings(table) if c not in self.best]
            if "typed" in out:
                typed = [{k: v for k, v in t.items() if k not in self.best} for t in out["typed"]]
                out["typed"] = pd.Series(typed, out.index)
        return out

    def _best(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the runs without those whose settings of ``best`` are not the best."""
        if not self.best:
            return table
        held = "descent/best_heldout"
        found = relative(table, held if held in table else "descent/best")
        own = settings(table)
        chosen = [c for c in self.best if c in own]
        if not chosen:
            raise ValueError(f"best: no run has a setting {' or '.join(self.best)}")
        every, group = configurations(own), configurations(own.drop(columns=chosen))
        mean = found.groupby(every).transform("mean")
        return table[mean == mean.groupby(group).transform("max")]


def from_mapping(given: Mapping[str, Any]) -> Hued:
    """Return the figure that ``{kind: lr_decrease, hue: COLUMN, ...}`` describes.

    Raises:
        ValueError: a key is unknown, or the kind or the hue is missing.

    """
    known = {f.name for f in fields(Hued)}
    if given.get("kind") not in KINDS or not {"hue"} <= set(given) <= known:
        raise ValueError(
            f"figure {dict(given)}: expected {{kind: {' | '.join(KINDS)}, hue: COLUMN}}, and "
            "any of best: [COLUMN], name: NAME"
        )
    best = given.get("best", ())
    return Hued(**{**given, "best": [best] if isinstance(best, str) else list(best)})
