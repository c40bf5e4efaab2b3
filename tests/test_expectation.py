"""An expectation is judged by its whole interval, and is inconclusive without observations."""

import numpy as np
import pandas as pd
import pytest

from sa.sweep import expectation


def table():
    """Return a table of two estimators, three dims, four seeds; b is twice a and falls with dim."""
    rows = [
        {"seed": s, "dim": d, "cosine": k * (1 - d / 100) + 0.001 * s}
        | {"words": [f"dim={d}", f"e={e}"]}
        for e, k in (("a", 0.4), ("b", 0.8))
        for d in (8, 16, 32)
        for s in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def judged(frame=None, **given):
    frame = table() if frame is None else frame
    known = {"id": "x", "statistic": "cosine", "predicate": ">=", "value": 0.5, "source": "paper"}
    (out,) = expectation.judge(
        expectation.read([known | given]), frame.drop(columns="words"), list(frame["words"])
    )
    return out


def test_an_expectation_passes_only_if_the_whole_interval_agrees():
    got = judged(where={"e": "b", "dim": 8})
    seen = 0.8 * 0.92 + 0.001 * np.arange(4)
    assert got["observed"] == pytest.approx(seen.mean())
    reach = 3.182446 * seen.std(ddof=1) / 2  # Student's t at three degrees of freedom
    assert got["interval"] == pytest.approx([seen.mean() - reach, seen.mean() + reach])
    assert (got["verdict"], got["n"]) == ("pass", 4)
    assert judged(where={"e": "a", "dim": 8})["verdict"] == "fail"
    assert judged(where={"e": "a", "dim": 8}, predicate="<=")["verdict"] == "pass"
    assert judged(where={"e": "b", "dim": 8}, value=float(seen.mean()))["verdict"] == "inconclusive"
    assert (
        judged(where={"e": "b", "dim": 8}, predicate="between", value=[0.7, 0.8])["verdict"]
        == "pass"
    )
    assert (
        judged(where={"e": "b", "dim": 8}, predicate="between", value=[0.1, 0.2])["verdict"]
        == "fail"
    )


def test_a_single_run_is_judged_by_its_value():
    got = judged(where={"e": "b", "dim": 8.0, "seed": 0})
    assert got["verdict"] == "pass" and got["interval"] == [got["observed"]] * 2


def test_settings_are_averaged_within_seeds_and_spread_if_there_is_one_seed():
    got = judged(where={"e": "b"})  # three dims of four seeds are not twelve independent runs
    seen = 0.8 * (1 - 56 / 300) + 0.001 * np.arange(4)
    assert (got["n"], got["of"]) == (4, "seeds") and got["observed"] == pytest.approx(seen.mean())
    reach = 3.182446 * seen.std(ddof=1) / 2
    assert got["interval"] == pytest.approx([seen.mean() - reach, seen.mean() + reach])
    one = judged(where={"e": "b", "seed": 1})
    assert (one["n"], one["of"]) == (3, "runs of one seed")
    assert one["interval"][1] - one["interval"][0] > 0.1


def test_a_seed_without_all_settings_is_reported():
    frame = table()
    frame.loc[(frame["seed"] == 1) & (frame["dim"] == 8), "cosine"] = float("nan")
    assert judged(frame, where={"e": "b"})["of"] == "seeds (1 without all settings)"
    assert (
        judged(frame, where={"e": "b"}, against={"e": "a"})["of"]
        == "seeds (1 without all settings)"
    )
    assert judged(frame, where={"e": "b", "dim": 16})["of"] == "seeds"


def test_two_selections_are_compared_seed_by_seed():
    frame = table()
    ratio = judged(
        frame, where={"e": "b"}, against={"e": "a"}, predicate="between", value=[1.9, 2.1]
    )
    assert ratio["verdict"] == "pass" and ratio["n"] == 4
    gap = judged(where={"e": "b"}, against={"e": "a"}, how="difference", predicate="<=", value=0.4)
    assert gap["observed"] == pytest.approx(0.4 * (1 - 56 / 300)) and gap["verdict"] == "pass"


def test_tau_is_kendalls_tau_within_each_seed():
    got = judged(where={"e": "b"}, tau="dim", predicate="<=", value=-0.9)
    assert got["observed"] == -1 and got["n"] == 4 and got["verdict"] == "pass"


def test_tau_needs_three_runs_per_seed():
    frame = table()
    told = judged(frame[frame["dim"] < 32], where={"e": "b"}, tau="dim")["why"]
    assert told == "no seed has three runs to order by dim"
    assert judged(where={"e": "c"}, tau="dim")["why"] == "no run has it"


@pytest.mark.parametrize(
    "given", [{"statistic": "speed"}, {"where": {"e": "c"}}, {"where": {"f": 1}}]
)
def test_an_unobserved_statistic_is_inconclusive(given):
    got = judged(**given)
    assert got["verdict"] == "inconclusive" and got["observed"] is None and got["why"]
    assert got["why"] in expectation.line(got)


def test_where_matches_defaults_that_were_not_typed():
    frame = table().assign(e=["a"] * 12 + ["b"] * 12, off=None, on=False)
    frame.loc[frame["e"] == "b", "words"] = frame["words"].map(lambda w: w[:1])
    assert judged(frame, where={"e": "b", "dim": 8, "off": None, "on": False})["n"] == 4
    assert judged(frame, where={"e": "b", "on": True})["why"] == "no run has it"
    typed = frame.assign(words=frame["words"].map(lambda w: [*w, "off=null"]))
    for nothing in (None, "null"):  # typed as null, the setting has its resolved value
        assert judged(typed, where={"e": "b", "dim": 8, "off": nothing})["n"] == 4
    assert judged(typed, where={"e": "b", "off": 1})["why"] == "no run has it"


def test_where_matches_an_option_without_settings_that_no_point_typed():
    frame = table().assign(init="{}")  # of init=none, typed once for all points
    assert judged(frame, where={"e": "b", "dim": 8, "init": "none"})["n"] == 4
    assert judged(frame, where={"e": "b", "dim": 8, "init": "settled"})["why"] == "no run has it"


def test_where_without_matching_runs_is_inconclusive():
    assert judged(where={"e": "c", "dim": 8})["why"] == "no run has it"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"value": [1, 2]}, "one"), ({"predicate": "between"}, "two values"),
        ({"predicate": "~"}, "between"), ({"when": 1}, "when"),
        ({"against": {"a": 1}, "tau": "dim"}, "exclude each other"),
    ],
)  # fmt: skip
def test_a_wrong_expectation_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        judged(**given)


def test_where_as_text_is_refused_in_experiments_and_read_in_old_records():
    known = {"id": "x", "statistic": "cosine", "predicate": ">=", "value": 0.5, "source": "paper"}
    old = known | {"where": "e=b dim=8 seed=null", "against": "e=[a] on=[Tt]rue"}
    with pytest.raises(ValueError, match=r"where: \{e: b, dim: 8, seed: null\}"):
        expectation.read([old])
    (got,) = expectation.read(expectation.recorded([old]))
    assert got.where == {"e": "b", "dim": "8", "seed": "null"}
    assert expectation.recorded([known]) == [known]


def test_where_matches_booleans_in_any_spelling():
    frame = table().assign(on=[np.True_] * 12 + ["False"] * 12)
    for wanted in (True, "true", "[Tt]rue"):
        assert judged(frame, where={"e": "a", "dim": 8, "on": wanted})["n"] == 4
        assert judged(frame, where={"e": "b", "dim": 8, "on": wanted})["n"] == 0
    assert judged(frame, where={"e": "b", "dim": 8, "on": False})["n"] == 4


def test_a_verdict_line_has_observation_interval_and_source():
    told = expectation.line(judged(where={"e": "b", "dim": 8}))
    assert told.startswith("pass: x: 0.7375 [") and told.endswith(
        "over 4 seeds; expected >= 0.5 (paper)"
    )


def test_a_verdict_names_the_settings_it_averages_over():
    rows = [
        {"seed": s, "dim": d, "model.dim": d, "q._target_": q, "x/y": 1.0 + d, "status": "done"}
        for s in (0, 1) for d in (8, 16, 32) for q in ("a", "b")
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs |= {"settings": ["seed", "dim", "model.dim", "q._target_"], "results": ["x/y"]}
    asked = {"statistic": "x/y", "predicate": ">=", "value": 0, "source": "s"}
    words = [[f"dim={r['dim']}", f"q={r['q._target_']}", f"seed={r['seed']}"] for r in rows]
    given = [
        asked | {"id": "all"},
        asked | {"id": "one", "where": {"q": "a", "dim": 8}},
        asked | {"id": "order", "tau": "dim"},
    ]
    pooled, single, order = expectation.judge(expectation.read(given), table, words)
    assert pooled["over"] == ["dim", "q"] and single["over"] == [] and order["over"] == ["q"]
    assert "and all values of dim, q;" in expectation.line(pooled)
    assert "over all values" not in expectation.line(single)


def test_decreases_in_expectations_are_relative_to_the_loss():
    frame = table().rename(columns={"cosine": "descent/best"}).assign(value=2.0)
    relative, absolute = judged(frame, statistic="descent/best"), judged()
    assert relative["observed"] == pytest.approx(absolute["observed"] / 2)
