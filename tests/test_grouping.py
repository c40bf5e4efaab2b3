"""Groups of runs are exactly the distinct configurations without the replicate (the seed)."""

import itertools
import random

import numpy as np
import pandas as pd
import pytest

from sa.table.grouping import configurations, key, varying


def frame(rows):
    return pd.DataFrame({k: pd.Series([r.get(k) for r in rows], dtype=object) for k in keys(rows)})


def keys(rows):
    return dict.fromkeys(k for row in rows for k in row)


def test_a_setting_that_some_runs_lack_makes_groups():
    points = [{"e": "cdg"}, {"e": "nes", "n": 50}, {"e": "nes", "n": 100}]
    table = pd.DataFrame([p | {"seed": s} for s in range(2) for p in points])
    assert varying(table) == ["e", "n"]
    assert configurations(table).tolist() == [0, 1, 2, 0, 1, 2]


def test_groups_are_the_distinct_configurations_of_random_sweeps():
    values = [None, 0, 1, 1.5, True, False, "1", "true", "null", "", [1], [[1, 2], [3]], "[1]"]
    draw = random.Random(0)
    for _ in range(30):
        names = draw.sample("abcdef", 3)
        rows = [
            {k: draw.choice(values) for k in names if draw.random() < 0.8}
            | {"seed": draw.randrange(3)}
            for _ in range(25)
        ]
        numbers = configurations(frame(rows)).tolist()
        for (p, a), (q, b) in itertools.combinations(zip(rows, numbers, strict=True), 2):
            same = all(
                type(p.get(k)) is type(q.get(k)) and p.get(k) == q.get(k) for k in names
            )  # an absent setting is null, as in a table
            assert same == (a == b), (p, q)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True), (1, True, False), (1, "1", False), (0, False, False), (None, "null", False),
        (None, float("nan"), True), (None, pd.NA, True), ([1, 2], (1.0, 2.0), True),
        ([1], "[1]", False), ([[1], 2], [[1, 2]], False), (np.int64(3), 3, True),
        (np.array([1.0]), [1], True), ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
    ],
)  # fmt: skip
def test_equal_settings_have_equal_keys(a, b, equal):
    assert (key(a) == key(b)) is equal


def seeds(rows):
    return pd.DataFrame(rows, columns=["seed", "init_seed"])


def test_a_seed_that_follows_the_replicate_makes_no_group():
    table = seeds([(s, s) for s in range(3)]).assign(**{"ends.1.seed": [1000, 1001, 1002]})
    assert varying(table) == [] and set(configurations(table)) == {0}
    mixed = seeds([(s, i) for s in range(3) for i in (s, None, 7)])
    assert varying(mixed) == ["init_seed"]
    assert configurations(mixed).tolist() == [0, 1, 2] * 3


def test_an_independent_seed_makes_groups():
    crossed = seeds([(s, i) for s in range(2) for i in range(2)])
    assert configurations(crossed).tolist() == [0, 1, 0, 1]
    alone = seeds([(0, i) for i in range(3)])
    assert varying(alone) == ["init_seed"] and configurations(alone).nunique() == 3


def test_a_width_that_changes_with_the_seed_makes_groups():
    table = pd.DataFrame({"seed": [0, 1], "dim": [8, 16]})  # sweep.zip=[dim,seed]
    assert varying(table) == ["dim"] and configurations(table).tolist() == [0, 1]


def test_configurations_of_one_run_and_of_no_runs():
    assert configurations(pd.DataFrame({"seed": [0, 1]})).tolist() == [0, 0]
    assert configurations(pd.DataFrame({"seed": []})).tolist() == []
    assert varying(pd.DataFrame({"dim": [8, 8]})) == []
