"""Rankings and Kendall's tau, against counts by hand and a reference implementation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sa.table import ranking


def test_kendall_equals_the_reference_with_ties():
    random = np.random.default_rng(0)
    for _ in range(20):
        x, y = (pd.Series(random.integers(0, 6, 15)).astype(float) for _ in range(2))
        assert ranking.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_kendall_of_too_few_or_of_constants_is_undefined():
    assert math.isnan(ranking.kendall(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0])))
    assert math.isnan(ranking.kendall(pd.Series([1.0] * 4), pd.Series([1.0, 2, 3, 4])))
    assert ranking.kendall(pd.Series([1, 2, 3, np.nan]), pd.Series([3, 2, 1, 0])) == -1


def runs():
    rows = []
    for seed in range(2):
        for at, label in enumerate("abcdef"):
            rows.append(
                {"label": label, "activation": "sign", "seed": seed,
                 "alignment/cosine": at / 10 + seed / 100, ranking.TRUTH: 1 - at / 10}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_estimators_are_ranked_by_their_means_over_seeds():
    got = ranking.means(runs())
    assert got["label"].tolist() == list("fedcba") and got["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert got["runs"].tolist() == [2] * 6
    assert got["alignment/cosine"].iloc[0] == pytest.approx(0.505)
    assert got[f"{ranking.TRUTH}/sem"].tolist() == [0.0] * 6


def test_a_perfect_prediction_has_tau_one_and_a_reversed_one_minus_one():
    table = runs()
    (one,) = ranking.judged(ranking.means(table), k=2).to_dict("records")
    assert (one["tau"], one["precision@2"], one["best@2"], one["n"]) == (1.0, 1.0, 1, 6)
    assert one["best_so_far"][0] == pytest.approx(0.5)
    table["alignment/cosine"] *= -1
    (one,) = ranking.judged(ranking.means(table), k=2).to_dict("records")
    assert (one["tau"], one["precision@2"], one["best@2"]) == (-1.0, 0.0, 5)
    assert one["best_so_far"] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5])
