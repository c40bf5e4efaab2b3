"""The tables of a sweep over seeds: every number says of how many runs it is."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sa.record import identity, sweep
from sa.record import run as record
from sa.record.config import write_config
from sa.sweep import expectation, scales
from sa.sweep.display import displayed, is_reference, over_seeds
from sa.sweep.export import latex
from sa.sweep.label import full_labels, short_labels
from sa.sweep.meaning import meaning
from sa.sweep.table import aggregate, framed
from sa.table import ranking

NES = {"_target_": "sa.NES", "sigma": 0.1, "samples": 50, "orthogonal": False}


def config(seed, **more):
    return {"seed": seed, "steps": 10, "estimator": dict(NES)} | more


def plan(root, configs, words=None):
    """Freeze a sweep ``x`` of these configurations; return its points."""
    points = []
    for at, one in enumerate(configs):
        write_config(root, one)
        typed = [f"seed={one['seed']}", *(words[at] if words else [])]
        points.append({"index": at, "run_id": identity.run_id(one), "overrides": typed})
    sweep.write_manifest(root, "x", points, {})
    return points


def finish(root, made, status="done", **result):
    with record.Record.open(root, made, {}) as run:
        run.append({"step": 0})
        run.finish({"status": status, "target": "loss"} | result)


def table(root, configs, words=None):
    return framed(root, plan(root, configs, words))


def test_every_run_is_counted_in_the_row_of_its_configuration(tmp_path):
    cdg = {"_target_": "sa.CDG", "epsilon": 0.1}
    kinds = [
        config(0, estimator=cdg), config(0), config(0, estimator=NES | {"samples": 100}),
        config(0, moving=[1, -2]), config(0, moving="[1, -2]"), config(0, moving=True),
        config(0, moving="true"), config(0, until={"test/accuracy": 0.9}), config(0, batch=None),
    ]  # fmt: skip
    configs = [kind | {"seed": s} for s in range(2) for kind in kinds[:-1]]
    got = aggregate(table(tmp_path, configs))
    assert got["runs"].tolist() == [2] * 8
    assert got["estimator.samples"].tolist()[1:3] == [50, 100]
    assert np.isnan(got["estimator.samples"].iloc[0])


def test_a_column_of_mixed_types_distinguishes_1_from_text_1(tmp_path):
    values = [1, 1.5, True, "1", "true", "all", [1], "[1]", '"all"']
    got = table(tmp_path, [config(0, moving=v) for v in values])["moving"].tolist()
    assert got == ["1", "1.5", "true", '"1"', '"true"', "all", "[1]", '"[1]"', '"\\"all\\""']


def test_settings_added_after_a_run_make_no_group(tmp_path):
    configs = [config(0), config(1, decay_all=False, stored=None, schedule={})]
    assert identity.run_id(config(1)) == identity.run_id(configs[1])
    assert aggregate(table(tmp_path, configs))["runs"].tolist() == [2]


def test_the_two_trainings_of_an_analysis_are_settings_without_seeds(tmp_path):
    def pair(seed, second, start):
        ends = [{"estimator": NES, "steps": 5}, {"estimator": second, "init_seed": start}]
        return config(seed, ends=ends)

    other = {"_target_": "sa.CDG"}
    configs = [pair(s, e, s) for s in range(3) for e in (NES, other)]
    assert aggregate(table(tmp_path, configs))["runs"].tolist() == [3, 3]
    named = [config(s, ends=[identity.run_id(pair(s, NES, s)), "gone"]) for s in range(3)]
    found = table(tmp_path, [*configs, *named])
    assert found["ends.0.estimator.samples"].tolist() == [50] * 9  # also of a run given by its id
    assert aggregate(found)["runs"].tolist() == [3, 3, 3]


def test_a_run_without_its_configuration_is_counted_with_its_planned_settings(tmp_path):
    configs = [config(s, steps=n) for n in (10, 20) for s in range(2)]
    words = [[f"steps={c['steps']}"] for c in configs]
    points = plan(tmp_path, configs, words)
    (tmp_path / "runs" / points[1]["run_id"] / "config.yaml").unlink()
    got = aggregate(framed(tmp_path, points))
    assert got["runs"].tolist() == [2, 2] and got["n"].tolist() == [0, 0]
    assert got["runs/pending"].tolist() == [2, 2]


def test_a_mean_gives_the_number_of_its_runs(tmp_path):
    configs = [config(s) for s in range(5)]
    points = plan(tmp_path, configs)
    finish(tmp_path, configs[0], value=1.0, flag=True, evals=10)
    finish(tmp_path, configs[1], value=3.0, flag=None, evals=10)
    finish(tmp_path, configs[2], value=None, flag=False, evals=10)
    finish(tmp_path, configs[3], "diverged", value=1e30, evals=2)  # a diverged run has no result
    with record.Record.open(tmp_path, configs[4], {}) as run:
        run.fail("no memory")
    (row,) = aggregate(framed(tmp_path, points)).to_dict("records")
    assert (row["n"], row["runs"], row["runs/diverged"], row["runs/failed"]) == (3, 5, 1, 1)
    assert (row["value/n"], row["value/mean"], row["evals/mean"]) == (2, 2.0, 10)
    half = stats.t.ppf(0.975, 1) * 2**0.5 / 2**0.5
    assert row["value/ci95"] == pytest.approx(half)
    assert (row["flag/n"], row["flag/mean"]) == (2, 0.5)
    (shown_row,) = over_seeds(framed(tmp_path, points), ["a"] * 5, ["value"])[1]
    assert shown_row.states == {"done": 3, "diverged": 1, "failed": 1} and shown_row.runs == 5
    assert (shown_row.cells[0].n, shown_row.cells[0].mean) == (2, 2.0)


# Verdicts


def judged(status, loss, **given):
    """Return the verdict over six seeds; a run that is not done has the loss of its table."""
    runs = pd.DataFrame({"seed": range(6), "status": status, "train/loss": loss})
    known = {"id": "x", "statistic": "train/loss", "predicate": "<=", "value": 0.2, "source": "s"}
    words = [["optimizer.lr=7"] for _ in range(6)]
    (got,) = expectation.judge(expectation.read([known | given]), runs, words)
    return got


STATES = ["diverged", "failed", "lost", "interrupted", "skipped", "running", "pending"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reached", [float("nan"), 0.1, float("inf")])
def test_no_expectation_passes_if_runs_are_lost(state, reached):
    got = judged(["done"] * 4 + [state] * 2, [0.1, 0.11, 0.1, 0.11] + [reached] * 2)
    assert got["verdict"] == "inconclusive" and got["n"] == 4
    assert f"2 of 6 {state}" in expectation.line(got)
    assert judged(["done"] * 6, [0.1, 0.11] * 3)["verdict"] == "pass"


def test_an_expectation_names_a_finished_run_that_lacks_its_number():
    for lacking in (float("nan"), float("inf"), None):
        got = judged(["done"] * 6, [0.1] * 5 + [lacking])
        assert got["verdict"] == "inconclusive"
        assert "1 of 6 without train/loss" in expectation.line(got)


def test_failing_runs_fail_despite_losses_and_no_runs_are_inconclusive():
    assert judged(["done"] * 4 + ["diverged"] * 2, [0.5] * 4 + [None] * 2)["verdict"] == "fail"
    got = judged(["diverged"] * 6, [0.1] * 6, predicate=">=")
    assert got["verdict"] == "inconclusive" and "6 of 6 diverged" in expectation.line(got)
    got = judged(["failed"] * 6, [None] * 6, statistic="test/loss")
    assert "6 of 6 failed" in expectation.line(got) and "no run has test/loss" in got["why"]


def test_lost_runs_count_in_ratios_orders_and_selections_by_result():
    rows = [{"seed": s, "dim": d, "e": e, "cosine": -d + s / 9, "stopped/by": "goal"}
            for s in range(3) for d in (1, 2, 3) for e in "ab"]  # fmt: skip
    words = [[f"dim={r['dim']}", f"e={r['e']}"] for r in rows]
    known = {"id": "x", "statistic": "cosine", "source": "s", "where": {"e": "a"}}

    def verdict(lost, **given):
        runs = pd.DataFrame(rows).assign(status="done")
        runs.loc[lost, ["status", "cosine", "stopped/by"]] = ["diverged", None, None]
        return expectation.judge(expectation.read([known | given]), runs, words)[0]

    arms = {
        "against": {"e": "b"},
        "how": "difference",
        "predicate": "between",
        "value": [-0.1, 0.1],
    }
    tau = {"tau": "dim", "predicate": "<=", "value": -0.9}
    goal = {"where": {"stopped/by": "goal", "e": "a"}, "predicate": "<=", "value": 0}
    for given in (arms, tau, goal):
        assert verdict([], **given)["verdict"] == "pass", given
        got = verdict([0], **given)
        assert got["verdict"] == "inconclusive" and got["missing"] == {"diverged": 1}, given
    assert verdict([1], **arms)["missing"] == {"diverged": 1}  # a run of the other arm
    assert verdict([1], **tau)["verdict"] == "pass"  # a run of neither arm
    assert verdict([0], **(goal | {"where": {"status": "done", "e": "a"}}))["verdict"] == "pass"


def test_a_ratio_to_zero_is_undefined_and_does_not_pass():
    rows = [{"seed": s, "e": e, "x": 0.0 if s == 0 else 1.0} for s in range(3) for e in "ab"]
    known = {"id": "i", "statistic": "x", "where": {"e": "a"}, "against": {"e": "b"}, "source": "s"}
    given = expectation.read([known | {"predicate": "<=", "value": 2}])
    (got,) = expectation.judge(given, pd.DataFrame(rows), [[f"e={r['e']}"] for r in rows])
    assert got["verdict"] == "inconclusive" and "1 undefined" in got["of"]


def test_an_estimator_with_a_lost_run_has_no_rank():
    rows = [{"label": x, "activation": "sign", "seed": s, "status": "done", ranking.TRUTH: v}
            for x, v in (("a", 0.1), ("b", 0.2), ("c", 0.3)) for s in range(3)]  # fmt: skip
    runs = pd.DataFrame(rows)
    runs.loc[0, ["status", ranking.TRUTH]] = ["diverged", 0.0]
    got = ranking.means(runs)
    assert got["label"].tolist() == ["b", "c", "a"]
    assert got["rank"].tolist()[:2] == [1, 2] and np.isnan(got["rank"].iloc[2])
    assert got["n"].tolist() == [3, 3, 2] and got["runs"].tolist() == [3] * 3
    assert ranking.order(got) == ["b", "c", "a"]
    assert ranking.order(ranking.means(runs.assign(status="done"))) == ["a", "b", "c"]


# Which eps and sigma?


def test_within_noise_returns_the_range_equal_to_the_best():
    draw = np.random.default_rng(0)
    means = np.array([0.0, 0.5, 1.0, 1.0, 0.5])
    shared = draw.normal(size=(50, 1))  # the effect of a seed on all options is no noise
    apart = np.where(np.arange(50)[:, None] % 2, 1e-3, -1e-3) * [0, 0, 0, 1, 0]
    assert ranking.within_noise(means + 10 * shared + apart)[1:] == (2, 3)
    loud = np.where((np.arange(50)[:, None] >> np.arange(5)) % 2, 10, -10) * [1, 1, 1, 1, 0]
    assert ranking.within_noise((means + loud)[:48])[1:] == (0, 4)
    # with one seed only ties are equal
    assert ranking.within_noise(np.array([[1.0, 2.0, 2.0, 1.0]])) == (1, 1, 2)
    assert ranking.within_noise(np.array([[np.nan, 1.0], [np.inf, 1.0]])) == (1, 1, 1)
    assert ranking.within_noise(np.full((3, 2), np.nan)) is None


def smoothed(held, seeds=3, **more):
    """Return the table of a calibration with held-out decreases ``held`` over three sigmas."""
    grid = [0.01, 0.1, 1.0]
    rows = [
        {"seed": s, "status": "done", "value": 1.0, "smoothing/cosine": [1.0]} for s in range(seeds)
    ]
    for row, gains in zip(rows, held, strict=True):
        for kind, scale in (("box", "epsilon"), ("gaussian", "sigma")):
            row |= {f"smoothing/{kind}/{scale}": grid, f"smoothing/{kind}/heldout": gains}
            row[f"smoothing/{kind}/best"] = gains
            best = grid[int(np.argmax(gains))]
            row |= {f"smoothing/{scale}": best, f"smoothing/{scale}_low": best}
            row[f"smoothing/{scale}_high"] = best
    made = pd.DataFrame(rows)
    made.attrs = {"settings": ["seed"], "results": []}
    return made


def test_a_flat_curve_allows_any_scale_and_choices_show_medians():
    flat = smoothed([[0.2, 0.19, 0.21], [0.2, 0.21, 0.2], [0.22, 0.2, 0.19]])
    told = scales.answers(flat, ["all"] * 3)
    assert len(told) == 2 and all("of the grid: 0.01 to 1 are within noise" in x for x in told)
    assert "3 of 3 runs" in told[0]
    peak = smoothed([[0.1, 0.3, 0.31], [0.11, 0.31, 0.3], [0.1, 0.3, 0.3]])
    assert (
        "which sigma? 0.1 to 1 are within noise of the best" in scales.answers(peak, ["a"] * 3)[1]
    )
    falls = smoothed([[-0.1, -0.3, -0.2]] * 3)
    assert "no eps lowers the held-out loss" in scales.answers(falls, ["a"] * 3)[0]
    cell = over_seeds(flat, ["a"] * 3, ["smoothing/sigma"])[1][0].cells[0]
    assert cell.mean == 0.1 and cell.half != cell.half  # the median of 1, 0.1 and 0.01


# Names, marks, labels, files


def aligned_table():
    first = "analysis.alignment.references.a"
    made = pd.DataFrame(
        {
            "estimator._target_": ["sa.CDG", "sa.CDG", "sa.NES"], "estimator.path": "auto",
            "estimator.epsilon": [0.1, 0.01, None], "estimator.sigma": [None, None, 0.1],
            f"{first}._target_": "sa.CDG", f"{first}.epsilon": 0.1, "seed": 0, "status": "done",
            "alignment/cosine": [1.0, 0.9, 0.3], "descent/best": [0.2, 0.1, 0.1], "value": 0.5,
        }
    )  # fmt: skip
    settings = [c for c in made if "/" not in c and c not in ("status", "value")]
    made.attrs = {"settings": settings, "results": ["alignment/cosine", "descent/best", "value"]}
    return made


def test_numbers_are_named_relative_and_the_reference_is_marked():
    made = aligned_table()
    assert is_reference(made) == [True, False, False]
    cosine, best = displayed(made, "alignment/cosine"), displayed(made, "descent/best")
    assert cosine.words == "cosine to CDG (eps 0.1)"
    assert best.words == "best relative decrease (%)"
    assert best.numbers.tolist() == pytest.approx([40, 20, 20])
    rows = over_seeds(made, list("abc"), ["alignment/cosine", "descent/best"])[1]
    assert [r.cells[0].reference for r in rows] == [True, False, False]
    assert not any(r.cells[1].reference for r in rows)
    assert "$1$ (reference)" in latex(["a", "b"], rows)


def test_each_configuration_has_one_label():
    def points(*words):
        return [{"overrides": w.split()} for w in words]

    plain = pd.DataFrame()
    some = points("e.first=a seed=0", "e.second=a seed=0", "seed=0")
    assert short_labels(some, plain) == ["first=a", "second=a", "the defaults"]
    several = points("dataset.dim=1 model.dim=2", "dataset.dim=2 model.dim=2", "model.dim=1")
    told = short_labels(several, plain)
    assert told == ["dataset.dim=1 model.dim=2", "dataset.dim=2 model.dim=2", "model.dim=1"]
    # one run typed the value that is the default of another
    same = pd.DataFrame({"seed": [0, 1, 0], "dim": [8, 8, 16]})
    same.attrs["settings"] = ["seed", "dim"]
    assert full_labels(points("seed=0", "dim=8 seed=1", "seed=0"), same) == ["dim=8"] * 2 + [
        "dim=16"
    ]


def test_a_meaning_is_found_for_every_number_of_the_summaries():
    from sa.sweep.view import KEYS

    assert [k for k in KEYS if len(meaning(k)) < 15] == []
    assert meaning("curvature/gap").startswith("From the analysis curvature: ")
    assert meaning("ema/test/accuracy").endswith("on the test rows, at the end.")
    assert meaning("dim") == "Setting dim: width of toy_mlp and of the rows of gaussian."
    assert meaning("nobody/knows") == ""


def test_latex_needs_only_booktabs_and_is_escaped(tmp_path):
    configs = [config(s, model={"a_b": v}) for v in ("50 %", "x & y") for s in range(2)]
    words = [[f"model.a_b={c['model']['a_b']}"] for c in configs]
    points = plan(tmp_path, configs, words)
    for at, one in enumerate(configs[:3]):
        finish(tmp_path, one, value=1e-7 * (at + 1))
    made = framed(tmp_path, points)
    names, rows = over_seeds(made, full_labels(points, made), ["value"])
    told = latex(names, rows)
    assert r"model.a\_b=50 \% & 2 & $1.5 \cdot 10^{-7} \pm 6.4 \cdot 10^{-7}$ \\" in told
    assert r"model.a\_b=x \& y & 1 of 2: 1 pending & $3 \cdot 10^{-7}$ ($n=1$) \\" in told
    assert told.count(r"\toprule") == told.count(r"\bottomrule") == 1
    body = [x for x in told.splitlines() if x.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", x)) for x in body} == {2}


def test_a_figure_names_the_unfinished_runs_of_its_sweep(tmp_path, monkeypatch):
    from sa.figure import draw
    from sa.sweep import page

    seen = []
    monkeypatch.setattr(page, "_source", lambda kind, root, points, table, over: table.head(1))
    monkeypatch.setattr(
        draw, "draw", lambda kind, table, folder: seen.append(table.attrs["missing"]) or []
    )
    runs = pd.DataFrame({"status": ["done", "diverged", "diverged", "failed"]})
    page._draw(tmp_path, {"name": "s", "figure": ["bands"], "over": "step"}, [], runs)
    assert seen == ["2 of 4 runs diverged, 1 of 4 runs failed"]
    assert page._missing(runs.head(1)) == ""


def test_progress_lines_name_results_as_tables_do():
    from sa.launch.progress import _value

    result = {"value": 0.5, "descent/best": 0.2, "status": "done", "x/y": 3.0}
    assert _value({"metric": "descent/best"}, result) == "best relative decrease (%) 40"
    assert _value({"metric": "x/y"}, result) == "x/y 3"
    assert _value({"metric": None}, result) == "loss at the point 0.5"
    assert _value({"metric": "absent"}, result) == "done"
