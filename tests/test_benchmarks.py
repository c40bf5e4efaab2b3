"""The picture of the benchmarks names both sides of every comparison."""

import json
from pathlib import Path

import pytest

from benchmarks.draw import KINDS, seconds, sides

RESULTS = json.loads((Path(__file__).parents[1] / "benchmarks" / "results.json").read_text())


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: r["name"])
def test_benchmark_rows_name_both_sides_and_show_their_ratio(result):
    ours, other, kind = sides(result)
    assert ours and other and kind in KINDS
    mine, theirs = seconds(result)
    low, high = result["spread"]
    assert 0.7 * low <= theirs / mine <= 1.4 * high
