"""A figure distinguishes every setting that varies in its sweep, or names what it averages over."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from sa.figure import _label, _settings, draw
from sa.figure.draw import _kind, _pictures, _with_parts
from tests.test_figure import RESULTS, TRAININGS, evaluated, table, trained

EXTRA = "extra.kind"


SEVERAL = ("lr_decrease", "best_decrease", "alignment", "gates", "variants")
"""Figure kinds that are drawn with several estimators; the table of the others has one."""


def runs(kind, value, factor):
    """Return runs with one value of an extra setting, which multiplies all their results."""
    if kind == "bands":
        made = evaluated(seeds=2)
        made[["train/loss", "test/loss", "train/accuracy"]] *= factor
        made.attrs["settings"] = ["seed"]
    elif kind in TRAININGS:
        made = trained()
        made.attrs["settings"] = ["estimator._target_", "optimizer.lr", "seed"]
        made["train/loss"] *= factor
        made["step"] *= factor
        made["evals"] *= factor
    else:
        several = kind in SEVERAL
        made = table(dims=(8,), seeds=(0,), names=("STE", "CDG") if several else ("CDG",))
        changed = {}
        for column in [*RESULTS, "step", "keep"]:
            if column == "value" or column.startswith("cost/"):  # other results are relative to it
                continue
            if pd.api.types.is_float_dtype(made[column]):
                changed[column] = made[column] * factor
            elif isinstance(made[column].iloc[0], list) and not column.endswith(("/bits", "/at")):
                changed[column] = [x and list(np.asarray(x) * factor) for x in made[column]]
        made = made.assign(**changed)
    rows = made.attrs.get("rows")
    if rows:
        made.attrs["rows"] = lambda run: [
            {k: scaled(v, factor) if k != "step" else v for k, v in one.items()}
            for one in rows(run.removeprefix(value))
        ]
    made.attrs["settings"] = [*made.attrs["settings"], EXTRA]
    names = value + made.get("run_id", pd.Series("", made.index)).astype(str)
    return made.assign(run_id=names, **{EXTRA: value})


def scaled(value, factor):
    if isinstance(value, str):
        return value
    return [x * factor for x in value] if isinstance(value, list) else value * factor


def both(kind, *tables):
    """Return the runs of several tables in one, with the rows of their steps."""
    made = pd.concat(tables, ignore_index=True)
    made.attrs = dict(tables[0].attrs)
    if "rows" in made.attrs:
        of = {t[EXTRA].iloc[0]: t.attrs["rows"] for t in tables}
        made.attrs["rows"] = lambda run: of[run[0]](run)
    return made


def pages(kind, given):
    """Return all pictures of a kind, and its tidy table."""
    made = _kind(kind)
    with draw._style():
        pictures, tidy, _ = _pictures(made, _with_parts(made, given, kind in [*draw.OTHERS]))
        return [picture() for picture in pictures], tidy


def painted(kind, given):
    figures, tidy = pages(kind, given)
    return figures[0], tidy


def heights(figure):
    """Return every value that is drawn by lines, bars, dots and cells."""
    found = []
    for axis in figure.axes:
        found += [line.get_ydata() for line in axis.lines if line.get_gid() != "below"]
        found += [[p.get_height(), p.get_width()] for p in axis.patches if hasattr(p, "get_height")]
        for some in axis.collections:
            found.append(np.ma.filled(some.get_array(), np.nan) if some.get_array() is not None
                         else some.get_offsets()[:, 1])  # fmt: skip
    values = np.concatenate([np.ravel(np.asarray(f, float)) for f in found] or [[]])
    return set(np.round(values[np.isfinite(values)], 9).tolist())


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(Text))


LINES = [
    {"kind": "lines", "x": "dim", "y": "keep"},
    {"kind": "lines", "x": "dim", "y": ["test/loss", "train/loss"], "hue": "estimator._target_"},
    {"kind": "lines", "x": "optimizer.lr", "y": "descent/best", "panels": ["stored.bits", "dim"]},
    {"kind": "lines", "x": "stored.rounding", "y": "keep", "hue": "stored.bits"},
    {"kind": "lines", "x": "step", "y": "loss", "panels": "dim", "log": ["x", "y"]},
    {"kind": "lr_decrease", "hue": "estimator._target_"},
    {"kind": "best_decrease", "hue": "dim"},
]
"""Line figures with and without colours and panels, over numbers, text values and steps; decreases
with a setting as colours."""


@pytest.mark.parametrize("kind", [*sorted([*draw.kinds(), "bands"]), *LINES], ids=str)
def test_no_figure_pools_runs_that_differ_in_a_setting(kind):
    one, two = runs(kind, "a", 1.0), runs(kind, "b", 1.125)
    figures, tidy = pages(kind, both(kind, one, two))
    alone = [heights(painted(kind, some)[0]) for some in (one, two)]
    if kind != "surface":  # it draws contours; its panels are counted below
        assert alone[0] != alone[1]
        assert alone[0] | alone[1] <= set().union(*map(heights, figures))
    else:
        assert len(figures[0].axes) == 1 + len(one) + len(two)
    assert set(tidy[EXTRA]) == {"a", "b"}, "the exported table has the setting"
    words = " ".join(map(texts, figures)).replace("\n", " ").split()
    for value in "ab":
        assert any(w.strip(",") in (value, f"kind={value}") for w in words), "it is told"


def test_every_varying_setting_is_a_column_of_the_exported_table(tmp_path):
    given = table()
    given["optimizer.lr"] = np.where(given["seed"] == 0, 0.1, 0.2)
    given.attrs["settings"] = [*given.attrs["settings"], "optimizer.lr"]
    for kind in ("lr_decrease", "variants"):
        _, tidy = painted(kind, given)
        assert set(_settings.varying_settings(given)) <= set(tidy) and "optimizer.lr" in tidy
        assert set(tidy["estimator.samples"].dropna()) == {500.0}
        assert not tidy.loc[tidy["label"] == "NES", "estimator.samples"].isna().any()


def test_unshown_settings_separate_exactly_the_configurations():
    given = table(dims=(8, 16))
    given["typed"] = [{"dim": str(d), "preset": "p" + e[-1]} for d, e in
                      zip(given["dim"], given["estimator._target_"], strict=True)]  # fmt: skip
    told = _settings.unshown(given)
    assert set(told) == {f"dim={d} preset=p{e}" for d in (8, 16) for e in "EGSm"}
    assert set(_settings.unshown(given, [given["dim"]])) == {"pE", "pG", "pS", "pm"}
    assert set(_settings.unshown(given, [given["dim"], given["estimator._target_"]])) == {""}


def test_unshown_distinguishes_missing_settings_and_similar_values():
    given = pd.DataFrame(
        {"seed": 0, "a.b": [None, 1.0, 1.0 + 1e-9, 2.0], "c.b": ["[1, 2]", "[1, 3]", None, None]}
    )
    given.attrs["settings"] = list(given)
    assert _settings.unshown(given).nunique() == 4


def test_replicates_counts_the_seeds_of_each_configuration():
    given = table(dims=(8,))
    assert _settings.replicates(given) == "2 seeds each"
    assert _settings.replicates(given.iloc[:-1]) == "1 to 2 seeds each"
    assert _settings.replicates(given.iloc[:1]) == "1 seed each"


def test_dim_is_not_the_axis_if_no_other_setting_follows_it():
    given = table().drop(columns="model.dim")
    given.attrs["settings"] = [s for s in given.attrs["settings"] if s != "model.dim"]
    named = _label.prepared(given)
    assert set(named["facet"]) == {""} and named["x"].nunique() == 1
    images = given[given["dim"] == 8].assign(**{"dataset.size": 8})  # as large as dim by chance
    images.attrs["settings"] = [*given.attrs["settings"], "dataset.size"]
    assert set(_label.prepared(images)["facet"]) == {""}
    figure, tidy = painted("best_decrease", given)
    assert "width of the network" not in texts(figure) and set(tidy["part"]) == {"dim=8", "dim=16"}
    named = _label.prepared(table())
    assert set(named["facet"]) == {"dim 8", "dim 16"} and set(named["x"]) == {8.0, 16.0}


def test_another_varying_number_is_the_axis_if_dim_is_constant():
    given = table(dims=(8,))
    given["dataset.rows"] = np.where(given["seed"] == 0, 64, 128)
    given.attrs["settings"] = [*given.attrs["settings"], "dataset.rows"]
    figure, tidy = painted("alignment", given)
    assert figure.axes[0].get_xlabel() == "dataset.rows" and set(tidy["x"]) == {64, 128}


@pytest.mark.parametrize("kind", ["best_decrease", "alignment"])
def test_everything_in_the_legend_is_drawn_for_a_single_x(kind):
    given = table(dims=(8,)).assign(
        **{"descent/null_best_least": 0.005, "descent/null_best_most": 0.02}
    )
    figure, _ = painted(kind, given)
    (axis,) = figure.axes
    drawn = {tuple(line.get_color()) for line in axis.lines if len(line.get_xdata())}
    drawn |= {tuple(c.get_facecolor()[0][:3]) for c in axis.collections if len(c.get_facecolor())}
    assert len(figure.legends[0].get_texts()) == 6 and axis.lines
    spans = [line for line in axis.lines if len(np.unique(line.get_xdata())) > 1]
    seen = [line for line in axis.lines if line.get_marker() not in ("None", "", None)]
    assert len(seen) >= 4 and (spans or axis.patches)
    if kind == "best_decrease":  # the null's band is as high as its spread
        band = max(p.get_height() for p in axis.patches)
        assert band == pytest.approx(0.0075)


def test_lines_end_at_the_last_step_length_of_all_seeds():
    given = table(dims=(8,), names=("STE",))
    far = [*given["descent/lr"].iloc[1], 1e3]
    given.at[1, "descent/lr"] = far
    given.at[1, "descent/decrease"] = [*given["descent/decrease"].iloc[1], -1e4]
    given.at[1, "descent/decrease_heldout"] = [*given["descent/decrease_heldout"].iloc[1], -1e4]
    figure, _ = painted("lr_decrease", given)
    for line in figure.axes[0].lines[:2]:
        assert np.max(line.get_xdata()) == pytest.approx(10.0)


@pytest.mark.parametrize("size", [0.5, 1e-4])
def test_ticks_in_percent_are_all_different(size):
    given = table(dims=(8,))
    lists = ["descent/decrease", "descent/decrease_heldout"]
    for column in lists:
        given[column] = [list(np.asarray(x) * size) for x in given[column]]
    figure, _ = painted("lr_decrease", given)
    axis = figure.axes[0].yaxis
    told = axis.get_major_formatter().format_ticks(axis.get_majorticklocs())
    assert len(set(told)) == len(told) > 2 and not any(x.startswith("-0 ") for x in told)


@pytest.mark.parametrize("many", [2, 10])
@pytest.mark.parametrize("dims", [(8,), (8, 16), (8, 16, 32, 64)], ids=len)
def test_a_legend_fits_into_its_figure(many, dims):
    one = table(dims=dims, names=("NES",), seeds=(0,))
    several = [one.assign(**{"estimator.sigma_of_noise": 0.1234 * i}) for i in range(many)]
    given = pd.concat(several, ignore_index=True)
    given.attrs["settings"] = [*one.attrs["settings"], "estimator.sigma_of_noise"]
    figure, _ = painted("lr_decrease", given.assign(run_id=given.index))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert len(figure.legends[0].get_texts()) == many + 1
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


def test_colours_of_many_labels_all_differ():
    from sa.figure._base import hues, palette

    for many in (2, 10, 30):
        names = pd.Series([f"N{i}" for i in range(many)])
        assert len(set(map(tuple, palette(names).values()))) == many
        assert len(set(map(tuple, hues(list(names)).values()))) == many


def test_default_figures_show_what_the_sweep_measured():
    kinds = draw.fitting(table().assign(steps=0))
    names = {draw.file_name(k) for k in kinds}
    assert {"lr_decrease", "best_decrease", "alignment", "calibration", "gradient_norm"} <= names
    assert "bands" not in kinds and "curves" not in kinds
    one = pd.DataFrame({"seed": [0], "steps": [5]})
    assert draw.fitting(one) == ["curves"]
    two = pd.concat([one, one.assign(seed=1)])
    assert draw.fitting(two) == draw.fitting(one.assign(replicas=3)) == ["bands"]
    assert draw.fitting(two.assign(**{"model.hidden": [8, 9]})) == ["curves"]


def test_labels_come_in_the_order_of_their_numbers():
    from sa.figure._base import palette

    given = ["NES N=100", "CDG", "NES N=50", "NES sigma=1e-05", "NES sigma=0.01"]
    told = ["CDG", "NES N=50", "NES N=100", "NES sigma=1e-05", "NES sigma=0.01"]
    assert list(palette(pd.Series(given))) == told


def test_many_parts_make_several_pictures_and_one_table(tmp_path):
    several = [runs("alignment", f"k{i}", 1 - i / 100) for i in range(draw.PANELS + 1)]
    made = draw.draw("alignment", both("alignment", *several), tmp_path)
    names = [p.name for p in made]
    assert names[:4] == [f"alignment.{end}" for end in ("png", "svg", "pdf", "csv")]
    assert names[4:] == [f"alignment-2.{end}" for end in ("png", "svg", "pdf")]
    assert set(pd.read_csv(made[3])[EXTRA]) == {f"k{i}" for i in range(draw.PANELS + 1)}
    words = [p.read_text() for p in made if p.suffix == ".svg"]
    assert (
        "picture 1 of 2" in words[0]
        and "picture 2 of 2" in words[1]
        and f"k{draw.PANELS}" in words[1]
    )
    draw.draw("alignment", several[0], tmp_path)
    assert not list(tmp_path.glob("alignment-2.*")), "an earlier drawing's picture"
