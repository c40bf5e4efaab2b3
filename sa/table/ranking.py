"""Rankings of estimators: how well a result of one step predicts the loss after a training.

All ranks are of means over seeds, because ranks of single runs are mostly noise.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sa.table import names
from sa.table.results import half_width

ONE_STEP = (
    "alignment/cosine",
    "efficiency/at_evals/cosine",
    "efficiency/at_evals/decrease",
    "efficiency/at_evals/heldout",
)
"""Results of one step; higher is better."""

TRUTH = "training/ratio"
"""The result to predict: loss after a short training / loss before; lower is better."""


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each estimator and activation: means over done runs, and the final rank.

    ``runs`` counts all runs, ``n`` those that have `TRUTH`; ``training/ratio/sem`` is its standard
    error over seeds. ``rank`` 1 is the lowest final loss. An estimator that lost a run, for example
    by divergence, comes last and has no rank.

    Args:
        table: runs with ``label``, ``activation`` and ``status`` (without it all are done).

    """
    keys = ["activation", "label"]
    plain = ("value", "alignment/scale", "evals", "seconds", "training/heldout", "training/steps")
    columns = [c for c in (*ONE_STEP, *plain, TRUTH) if c in table]
    results = table[columns].apply(pd.to_numeric, errors="coerce").astype(float)
    results = results.where(results.abs() < math.inf)
    if "status" in table:
        results = results.where(table["status"] == "done")
    grouped = table[keys].join(results).groupby(keys, sort=False, dropna=False)
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
    """Return the labels of `means` by their mean `TRUTH`; those that lost a run come last."""
    scores = rows.assign(lost=rows["rank"].isna()).groupby("label")[["lost", TRUTH]].mean()
    return list(scores.sort_values(["lost", TRUTH], kind="stable").index)


def within_noise(gains: np.ndarray, paired: bool = True) -> tuple[int, int, int] | None:
    """Return the indices (best, low, high) of the best option and of the range that equals it.

    An option equals the best if its mean is lower by at most the 95 % half-width (Student's t) of
    their paired differences, or of the best's own mean if not ``paired``. With one observation the
    gains must be equal. The range grows from the best to both sides while options equal it. The
    result is None if nothing was measured.

    Args:
        gains: (n, k), higher is better: n observations (seeds or rows) of k options in order; NaN
            if not measured.
        paired: compare the options within each observation.

    """
    gains = np.where(np.isfinite(gains), gains, np.nan)
    counts = np.isfinite(gains).sum(0)
    if not counts.any():
        return None
    full = counts == counts.max()  # means of fewer observations cannot be compared
    means = np.full(gains.shape[1], -np.inf)
    means[full] = np.nanmean(gains[:, full], axis=0)
    best = low = high = int(means.argmax())
    rounding = 1e-12 * float(np.abs(means[full]).max())
    noise = [gains[:, best] - (gains[:, k] if paired else 0) for k in range(len(full))]
    widths = [np.nan_to_num(half_width(d[np.isfinite(d)])) for d in noise]
    equal = [means[best] - m <= w + rounding for m, w in zip(means, widths, strict=True)]
    while low > 0 and equal[low - 1]:
        low -= 1
    while high < len(equal) - 1 and equal[high + 1]:
        high += 1
    return best, low, high


def kendall(predicted: pd.Series, truth: pd.Series) -> float:
    """Return Kendall's tau-b (Kendall 1945) of two orders, ties counted.

    It is NaN for fewer than three pairs, or if one order is constant. Pairs with a NaN are left
    out; an infinity is the largest or smallest of its column, and two infinities are a tie.

    >>> kendall(pd.Series([1, 2, 3, 4]), pd.Series([1, 2, 4, 3]))
    0.66666666666667
    """
    from scipy import stats

    return _correlated(stats.kendalltau, predicted, truth)


def spearman(predicted: pd.Series, truth: pd.Series) -> float:
    """Return Spearman's rho (Spearman 1904) of two orders, mean ranks for ties.

    It is NaN if `kendall` is NaN.

    >>> round(spearman(pd.Series([1, 2, 3, 4]), pd.Series([1, 2, 4, 3])), 12)
    0.8
    """
    from scipy import stats

    return _correlated(stats.spearmanr, predicted, truth)


def _correlated(statistic: Callable[..., Any], predicted: pd.Series, truth: pd.Series) -> float:
    """Return a rank statistic of the pairs without a NaN; NaN if it is not defined."""
    both = pd.concat([predicted, truth], axis=1).dropna()
    if len(both) < 3 or (both.nunique() < 2).any():
        return math.nan
    # rounded: one order twice is 1, and scipy gives 0.9999999999999999 for six pairs
    return round(float(statistic(*both.to_numpy(float).T).statistic), 14)


def precision(predicted: pd.Series, truth: pd.Series, k: int) -> float:
    """Return the share of the k truly best (lowest truth) among the k predicted best (highest)."""
    return len(set(predicted.nlargest(k).index) & set(truth.nsmallest(k).index)) / k


def best_rank(predicted: pd.Series, truth: pd.Series, k: int) -> int:
    """Return the best true rank among the k predicted best (N@K, 1 is perfect)."""
    return int(truth.rank(method="min").loc[predicted.nlargest(k).index].min())


def judged(rows: pd.DataFrame, k: int = 5) -> pd.DataFrame:
    """Return how well each result of one step orders the estimators of `means`, by activation.

    Columns: ``tau`` (1: the same order), ``precision@k``, ``best@k``; ``n`` estimators that lost no
    run, ``of`` all; ``best_so_far``, the lowest truth among the first 1, 2, ... estimators in the
    predicted order.
    """
    out = []
    for activation, group in rows.groupby("activation", sort=False):
        for column in ONE_STEP:
            if column not in group:
                continue
            whole = group[group["n"] == group["runs"]].dropna(subset=[column, TRUTH])
            if len(whole) < 3:
                continue
            best = whole.sort_values(column, ascending=False)[TRUTH].cummin()
            few = min(k, len(whole))
            out.append(
                {
                    "activation": activation, "figure": names.bare(column), "n": len(whole),
                    "of": len(group),
                    "tau": kendall(whole[column], -whole[TRUTH]),
                    f"precision@{k}": precision(whole[column], whole[TRUTH], few),
                    f"best@{k}": best_rank(whole[column], whole[TRUTH], few),
                    "best_so_far": best.round(4).tolist(),
                }
            )  # fmt: skip
    return pd.DataFrame(out)
