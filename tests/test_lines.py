"""A figure of kind lines draws the columns that its mapping names, or says why it cannot."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sa.config import catalogue
from sa.figure import draw
from sa.figure._axis import thin_log_ticks
from sa.figure._hued import KINDS, Hued
from sa.figure.lines import Lines
from tests.test_figure import table
from tests.test_figure_settings import painted

ASKED = {"kind": "lines", "x": "dim", "y": "descent/best", "hue": "estimator._target_"}


def test_lines_are_means_over_seeds_and_bands_reach_from_minimum_to_maximum(tmp_path):
    given = table()
    made = draw.draw(ASKED, given, tmp_path)
    names = [f"descent_best_by_dim.{end}" for end in ("png", "svg", "pdf", "csv")]
    assert [p.name for p in made] == names
    tidy = pd.read_csv(made[3])
    assert set(tidy["hue"]) == {"STE", "CDG", "NES", "Random"} and len(tidy) == len(given)
    np.testing.assert_allclose(sorted(tidy["value"]), sorted(given["descent/best"] / 2))
    figure, _ = painted(ASKED, given)
    (axis,) = figure.axes
    assert axis.get_ylabel() == "best relative decrease" and axis.get_xlabel() == "dim"
    line = next(x for x in axis.lines if x.get_label() == "CDG")
    mine = given[given["estimator._target_"].str.endswith("CDG")].groupby("dim")["descent/best"]
    np.testing.assert_allclose(line.get_ydata(), mine.mean() / 2)
    assert [t.get_text() for t in axis.get_xticklabels()] == ["8", "16"]
    colour = next(
        c for c in axis.collections if (c.get_facecolor()[0][:3] == line.get_color()).all()
    )
    band = colour.get_paths()[0].vertices[:, 1]
    assert {band.min(), band.max()} == {mine.min().min() / 2, mine.max().max() / 2}


def test_each_result_and_setting_has_a_panel_and_many_panels_wrap():
    asked = {"kind": "lines", "x": "optimizer.lr", "y": ["test/loss", "train/loss", "keep"]}
    asked |= {"panels": ["dim", "stored.rounding"], "log": "x"}
    figure, tidy = painted(asked, table(seeds=(0,)))
    told = {f"dim {d}, rounding {r}" for d in (8, 16) for r in ("nearest", "stochastic")}
    assert set(tidy["panel"]) == told
    assert len(figure.axes) == 12 and {a.get_xscale() for a in figure.axes} == {"log"}
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 4)  # one row per result

    figure, _ = painted(asked | {"y": "keep", "panels": "run_id"}, table(seeds=(0,)))
    assert figure.axes[0].get_gridspec().ncols == 3 and len(figure.axes) == 8


def test_logarithmic_axes_have_plain_numbers():
    figure, _ = painted(ASKED | {"y": "train/loss", "log": ["x", "y"]}, table())
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert axis.yaxis.get_major_formatter()(0.1, 0) == "0.1"
    figure, _ = painted(ASKED | {"y": "test/accuracy", "log": ["x", "y"]}, table())
    assert figure.axes[0].get_yscale() == "linear"  # .90 to .93 is too narrow


def test_each_row_of_panels_has_its_own_y_axis_and_a_missing_panel_stays_empty():
    given = table()
    given["start"] = np.where(
        given["dim"] == 16, "trained", given["seed"].map({0: "raw", 1: "trained"})
    )
    given.attrs["settings"] = [*given.attrs["settings"], "start"]
    asked = ASKED | {"x": "estimator.samples", "panels": "dim", "rows": "start", "hue": "dim"}
    figure, tidy = painted(asked, given)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["start raw, dim 8", "start trained, dim 8", "start trained, dim 16"]
    first, second, third = figure.axes
    assert second.get_shared_y_axes().joined(second, third)
    assert not first.get_shared_y_axes().joined(first, second)
    assert set(tidy["row"]) == {"start raw", "start trained"}


def test_random_directions_are_a_grey_line_over_the_mean_of_each_seed():
    given = table(names=("STE", "CDG"))
    given["descent/null_best"] = [0.1, 0.3, 0.2, 0.2] * 2  # two estimators, two seeds
    figure, tidy = painted(ASKED | {"random": "descent/null_best"}, given)
    null = tidy[tidy["hue"] == "random directions"]
    np.testing.assert_allclose(null["value"], 0.1)  # relative to the loss, 2
    assert len(null) == 4 and list(null["number"].unique()) == ["descent/best"]
    (axis,) = figure.axes
    line = next(x for x in axis.lines if x.get_label() == "random directions")
    np.testing.assert_allclose(line.get_ydata(), 0.1)
    assert "random directions" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_interval_bands_are_confidence_intervals_of_means():
    given = table(names=("CDG",), seeds=(0, 1, 2))
    figure, _ = painted(ASKED | {"interval": True}, given)
    (axis,) = figure.axes
    values = given[given["dim"] == 8]["descent/best"] / 2
    band = axis.collections[0].get_paths()[0].vertices
    low, high = (end(band[band[:, 0] == 8, 1]) for end in (min, max))
    reach = 4.302653 * values.std() / 3**0.5  # Student's t with two degrees of freedom
    np.testing.assert_allclose([low, high], [values.mean() - reach, values.mean() + reach], 1e-4)


@pytest.mark.parametrize(("x", "each"), [("step", 1), ("evals", 3)])
def test_lines_over_steps_and_evals_are_read_from_the_rows_of_trainings(tmp_path, x, each):
    asked = {"kind": "lines", "x": x, "y": "gradient_norm/full", "name": "norms"}
    made = draw.draw(asked, table(names=("STE",)), tmp_path)
    tidy = pd.read_csv(made[3])
    assert made[3].name == "norms.csv"
    assert len(tidy) == 4 * 3  # the others were not analysed
    assert set(tidy["x"]) == {0, 2 * each, 4 * each}
    assert set(tidy["hue"]) == {"dim=8", "dim=16"}  # the setting that varies besides the seed


def test_text_values_are_evenly_spaced_on_an_axis_and_numbers_keep_their_value(tmp_path):
    given = table().assign(typed=[{"preset": ("b", "a")[i % 2]} for i in range(16)])
    figure, _ = painted(ASKED | {"x": "preset", "y": "keep"}, given)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["b", "a"]
    assert list(figure.axes[0].get_xticks()) == [0, 1]
    figure, tidy = painted(ASKED | {"hue": "preset"}, given)
    assert list(figure.axes[0].get_xticks()) == [8, 16] and set(tidy["hue"]) == {"a", "b"}


def test_lines_of_several_settings_leave_out_the_settings_that_a_run_lacks():
    figure, tidy = painted(ASKED | {"hue": ["estimator._target_", "estimator.epsilon"]}, table())
    assert set(tidy["hue"]) == {"STE", "CDG 0.1", "NES", "Random"}
    assert figure.legends[0].get_title().get_text() == "estimator epsilon"


def test_options_of_a_group_are_told_apart_by_the_words_that_were_typed():
    # the table has the settings of init=ste_500 in init.steps, ..., and only init=none in init
    given = table().assign(typed=[{"init": ("none", "ste_500")[i % 2]} for i in range(16)])
    given["init"] = ["{}", None] * 8
    _, tidy = painted(ASKED | {"panels": "init"}, given)
    assert set(tidy["panel"]) == {"init none", "init ste_500"}
    untyped = given.assign(typed=[{}] * 16)
    assert set(painted(ASKED | {"panels": "init"}, untyped)[1]["panel"]) == {"init {}", "init null"}


def test_accuracies_are_in_percent_and_runs_without_x_are_left_out():
    given = table(dims=(8,))
    figure, tidy = painted(ASKED | {"x": "estimator.epsilon", "y": "test/accuracy"}, given)
    assert set(tidy["hue"]) == {"CDG"} and len(tidy) == 2
    told = figure.axes[0].yaxis.get_major_formatter().format_ticks([0.905, 0.91])
    assert told == ["90.5 %", "91.0 %"]


def test_names_of_options_are_told_and_typed_words_that_refer_to_other_settings_are_not():
    given = table(names=("STE", "CDG")).assign(init=["{}", None] * 4)
    given["typed"] = [
        {"init": ("none", "settled")[i % 2], "estimator": "ab"[i // 2 % 2], "estimator.x": "${dim}"}
        for i in range(8)
    ]
    asked = {"kind": "lines", "x": "dim", "y": "descent/best", "rows": "init"}
    _, tidy = painted(asked, given)
    assert set(tidy["row"]) == {"init none", "init settled"}
    assert not tidy["hue"].str.contains("dim").any()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"x": "pie"}, "no column pie, and no run has pie= in its command"),
        ({"y": "pie"}, "no column pie"), ({"x": "descent/best"}, "differs between the seeds"),
        ({"colour": "dim"}, "expected {kind: lines, x: COLUMN, y: COLUMN}"),
        ({"rows": ["dim"]}, "rows is one column"), ({"levels": 0.1}, "levels is a list of numbers"),
        ({"levels": ["a"]}, "levels is a list"), ({"levels": {"8": 0.1}}, "levels is a list"),
        ({"kind": "pie"}, "expected {kind: lines, x: COLUMN, y: COLUMN}"),
        ({"kind": "lr_decrease"}, "expected {kind: lr_decrease | best_decrease, hue: COLUMN}"),
    ],
)  # fmt: skip
def test_impossible_lines_are_refused_with_a_reason(more, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        draw.draw(ASKED | more, table(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_levels_are_dotted_lines_of_all_panels_or_of_those_that_they_name():
    def levels(given):
        figure, _ = painted(ASKED | {"panels": "dim", "levels": given}, table())
        found = [[x.get_ydata()[0] for x in a.lines if x.get_ls() == ":"] for a in figure.axes]
        return {a.get_title(): f for a, f in zip(figure.axes, found, strict=True)}

    assert levels([0.1, 0.2]) == {"dim 8": [0.1, 0.2], "dim 16": [0.1, 0.2]}
    assert levels({16: [0.3]}) == levels({"16": [0.3]}) == {"dim 8": [], "dim 16": [0.3]}


def test_a_figure_of_decreases_takes_a_setting_as_colours_and_others_as_rows():
    given = table(names=("NES",))
    given = pd.concat([given.assign(**{"estimator.sigma": s}) for s in (0.1, 1.0)])
    given = pd.concat([given.assign(**{"estimator.samples": n}) for n in (5, 50)])
    given["run_id"] = [str(i) for i in range(len(given))]
    given.attrs = dict(table().attrs)
    asked = {"kind": "lr_decrease", "hue": "estimator.sigma", "name": "by_sigma"}
    figure, tidy = painted(asked, given)
    assert set(tidy["label"]) == {"0.1", "1"} and set(tidy["part"]) == {"samples=5", "samples=50"}
    assert len(figure.axes) == 4  # rows: samples; columns: dims
    assert figure.subfigs[0].legends[0].get_title().get_text() == "sigma"
    assert draw.file_name(asked) == "by_sigma"


def test_best_keeps_the_setting_of_the_largest_held_out_decrease_of_each_configuration():
    given = table(names=("CDG",))
    several = [given.assign(**{"estimator.epsilon": e}) for e in (0.1, 1.0)]
    for one, best in zip(several, ({8: 0.3, 16: 0.1}, {8: 0.2, 16: 0.4}), strict=True):
        one["descent/best_heldout"] = one["dim"].map(best) * one["value"]
    both = pd.concat(several, ignore_index=True)
    both.attrs = dict(given.attrs)
    both["typed"] = [{"estimator.epsilon": str(e)} for e in both["estimator.epsilon"]]
    asked = {"kind": "best_decrease", "hue": "estimator._target_", "best": ["estimator.epsilon"]}
    _, tidy = painted(asked, both)
    assert "part" not in tidy  # one row of panels, although the best eps differs
    assert tidy.groupby("dim")["estimator.epsilon"].unique().explode().tolist() == [0.1, 1.0]
    kept = tidy.groupby("dim")["best_heldout"].agg(["mean", "size"])
    np.testing.assert_allclose(kept["mean"], [0.3, 0.4])
    assert set(kept["size"]) == {given["seed"].nunique()} and set(tidy["label"]) == {"CDG"}
    assert "the epsilon with the largest held-out decrease" in draw.caption(asked, both)
    for best in ("estimator.epsilon", ["estimator.epsilon", "estimator.sigma"]):
        assert len(painted(asked | {"best": best}, both)[1]) == len(tidy)  # no run has a sigma
    with pytest.raises(ValueError, match=r"no run has a setting estimator\.sigma"):
        painted(asked | {"best": ["estimator.sigma"]}, both)


def test_a_figure_of_decreases_has_exactly_the_keys_that_a_configuration_may_set():
    keys = re.findall(r"(\w+):", catalogue.HUED)
    assert keys == [f.name for f in dataclasses.fields(Hued)]
    assert re.findall(r"\w+_\w+", catalogue.HUED) == list(KINDS)


def test_a_lines_figure_has_exactly_the_keys_that_a_configuration_may_set():
    keys = re.findall(r"(\w+):", catalogue.LINES)
    assert keys == ["kind", *(f.name for f in dataclasses.fields(Lines))]


@pytest.mark.parametrize("kind", draw.LINES_NOW)
def test_a_former_figure_kind_is_refused_with_the_experiment_that_draws_it_as_lines(tmp_path, kind):
    study = f"conf/experiment/{catalogue.drawn_as_lines(kind)}.yaml"
    with pytest.raises(ValueError, match=f"drawn by kind: lines now; see figure in {study}"):
        draw.draw(kind, pd.DataFrame(), tmp_path)


@pytest.mark.parametrize(
    ("ends", "told", "must"),
    [
        ((34_000, 470_000), {"20000", "50000", "200000", "500000"}, "50000"),
        ((0.0021, 0.0089), {"0.002", "0.005"}, "0.005"),
    ],
)
def test_a_logarithmic_axis_labels_few_of_its_long_numbers(ends, told, must):
    figure = Figure()
    axis = figure.subplots()
    axis.plot(ends, [1, 2])
    axis.set_xscale("log")
    thin_log_ticks(figure)
    labels = [axis.xaxis.get_minor_formatter()(x) for x in axis.xaxis.get_minorticklocs()]
    assert {x for x in labels if x} <= told and must in labels
