"""Does a figure measured in one step order estimators as their trainings do? Tables in, tables out.

Everything here takes means over seeds first: a rank of single runs is a rank of noise.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sa.table import names

ONE_STEP = (
    "alignment/cosine",
    "efficiency/at_evals/cosine",
    "efficiency/at_evals/decrease",
    "efficiency/at_evals/heldout",
)
"""Results of one step of which higher is better."""

TRUTH = "training/ratio"
"""What they are to predict, lower is better: the loss after a short training over the first."""


def means(table: pd.DataFrame) -> pd.DataFrame:
    """One row an estimator and activation: means over the seeds that are done, and the final rank.

    table: runs with a ``label`` and an ``activation``, and their ``status`` (done, if there is no
    such column). ``runs`` counts all of them, ``n`` those that have the truth. The spread of the
    truth is the standard error over seeds, ``training/ratio/sem``. ``rank`` 1 is the lowest final
    loss; who lost a run, as by divergence, comes last and has no rank.
    """
    keys = ["activation", "label"]
    plain = ("value", "alignment/scale", "evals", "seconds", "training/heldout", "training/steps")
    columns = [c for c in (*ONE_STEP, *plain, TRUTH) if c in table]
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").astype(float)
    numbers = numbers.where(numbers.abs() < math.inf)
    if "status" in table:
        numbers = numbers.where(table["status"] == "done")
    grouped = table[keys].join(numbers).groupby(keys, sort=False, dropna=False)
    out = grouped[columns].mean()
    out["runs"] = grouped.size()
    if TRUTH in out:
        out["n"] = grouped[TRUTH].count()
        out[f"{TRUTH}/sem"] = grouped[TRUTH].sem()
        whole = out[TRUTH].where(out["n"] == out["runs"])
        out["rank"] = whole.groupby("activation").rank()
        out = out.assign(lost=whole.isna()).sort_values(
            ["activation", "lost", TRUTH], kind="stable"
        )
        out = out.drop(columns="lost")
    return out.reset_index()


def order(rows: pd.DataFrame) -> list[str]:
    """The labels of `means` by their mean truth over activations; who lost a run comes last."""
    told = rows.assign(lost=rows["rank"].isna()).groupby("label")[["lost", TRUTH]].mean()
    return list(told.sort_values(["lost", TRUTH], kind="stable").index)


def within_noise(gains: np.ndarray, paired: bool = True) -> tuple[int, int, int] | None:
    """Return the positions (best, low, high) of the best option and of the range that equals it.

    gains: (n, k), higher is better: n observations (seeds, or rows) of k options in order; nan
    where not measured. An option equals the best if its mean is lower by no more than the 95 %
    half-width (Student's t) of their paired differences; not paired, of the best's own mean. Of one
    observation, only if the gains are equal. The range grows from the best to both sides as long as
    options equal it. None if nothing is measured.
    """
    gains = np.where(np.isfinite(gains), gains, np.nan)
    counts = np.isfinite(gains).sum(0)
    if not counts.any():
        return None
    full = counts == counts.max()  # a mean of other observations is no match
    means = np.full(gains.shape[1], -np.inf)
    means[full] = np.nanmean(gains[:, full], axis=0)
    best = low = high = int(means.argmax())
    rounding = 1e-12 * float(np.abs(means[full]).max())
    noise = [gains[:, best] - (gains[:, k] if paired else 0) for k in range(len(full))]
    equal = [
        means[best] - m <= _half_width(d) + rounding for m, d in zip(means, noise, strict=True)
    ]
    while low > 0 and equal[low - 1]:
        low -= 1
    while high < len(equal) - 1 and equal[high + 1]:
        high += 1
    return best, low, high


def _half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of the mean of what is finite; 0 of one value."""
    from scipy import stats

    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return 0.0
    return float(stats.t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)


def kendall(predicted: pd.Series, truth: pd.Series) -> float:
    """Return Kendall's tau-b (Kendall 1945) of two orders, ties counted.

    NaN below three pairs and where one is constant. Pairs with a NaN are left out; an infinity is
    the largest or smallest of its column, and two are a tie.

    >>> kendall(pd.Series([1, 2, 3, 4]), pd.Series([1, 2, 4, 3]))
    0.66666666666667
    """
    from scipy import stats

    return _correlated(stats.kendalltau, predicted, truth)


def spearman(predicted: pd.Series, truth: pd.Series) -> float:
    """Return Spearman's rho (Spearman 1904) of two orders, mean ranks for ties.

    NaN where `kendall` is.

    >>> round(spearman(pd.Series([1, 2, 3, 4]), pd.Series([1, 2, 4, 3])), 12)
    0.8
    """
    from scipy import stats

    return _correlated(stats.spearmanr, predicted, truth)


def _correlated(statistic: Callable[..., Any], predicted: pd.Series, truth: pd.Series) -> float:
    """Return a rank statistic of the pairs without a NaN; NaN where it is not defined."""
    both = pd.concat([predicted, truth], axis=1).dropna()
    if len(both) < 3 or (both.nunique() < 2).any():
        return math.nan
    # rounded: one order twice is 1, and scipy gives 0.9999999999999999 for six pairs
    return round(float(statistic(*both.to_numpy(float).T).statistic), 14)


def precision(predicted: pd.Series, truth: pd.Series, k: int) -> float:
    """Share of the k that are truly best (lowest truth) among the k predicted best (highest)."""
    return len(set(predicted.nlargest(k).index) & set(truth.nsmallest(k).index)) / k


def best_rank(predicted: pd.Series, truth: pd.Series, k: int) -> int:
    """The best true rank among the k predicted best (N@K, 1 is perfect)."""
    return int(truth.rank(method="min").loc[predicted.nlargest(k).index].min())


def judged(rows: pd.DataFrame, k: int = 5) -> pd.DataFrame:
    """For each activation and one-step figure: how well it orders the estimators of `means`.

    Columns: tau (1: the same order), ``precision@k``, ``best@k``, n of how many estimators (those
    that lost no run), and best_so_far, the lowest truth among the first 1, 2, ... estimators in the
    predicted order.
    """
    out = []
    for activation, mine in rows.groupby("activation", sort=False):
        for column in ONE_STEP:
            if column not in mine:
                continue
            some = mine[mine["n"] == mine["runs"]].dropna(subset=[column, TRUTH])
            if len(some) < 3:
                continue
            best = some.sort_values(column, ascending=False)[TRUTH].cummin()
            few = min(k, len(some))
            out.append(
                {
                    "activation": activation, "figure": names.bare(column), "n": len(some),
                    "of": len(mine),
                    "tau": kendall(some[column], -some[TRUTH]),
                    f"precision@{k}": precision(some[column], some[TRUTH], few),
                    f"best@{k}": best_rank(some[column], some[TRUTH], few),
                    "best_so_far": best.round(4).tolist(),
                }
            )  # fmt: skip
    return pd.DataFrame(out)
