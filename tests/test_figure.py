"""Figures draw the table they are given, or raise an error that says why they cannot."""

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest

from sa.figure import _axis, _base, _label, draw, memorised
from sa.figure.surface import surface

LRS = np.geomspace(1e-3, 10, 25)


def table(dims=(8, 16), seeds=(0, 1), names=("STE", "CDG", "NES", "Random")):
    """Return a table of runs whose decrease is g eta - eta^2, where g depends on every setting."""
    rows = []
    for dim in dims:
        for seed in seeds:
            for at, name in enumerate(names):
                g = (1 + at) / 4 + dim / 100 + seed / 10
                drop = g * LRS - LRS**2
                rows.append(
                    {
                        "dim": dim, "model.dim": dim, "seed": seed,
                        "estimator._target_": f"sa.estimator.x.{name}",
                        "estimator.surrogate": "clipped" if name == "STE" else None,
                        "estimator.samples": 500.0 if name == "NES" else np.nan,
                        "value": 2.0, "descent/lr": list(LRS), "descent/decrease": list(drop),
                        "descent/decrease_heldout": list(0.9 * drop),
                        "descent/null": list(0.0 * drop), "descent/best": drop.max(),
                        "descent/best_heldout": 0.9 * drop.max(), "descent/null_best": 0.01,
                        "alignment/cosine": at / 3, "alignment/ceiling": 0.95,
                        "cosine_expected": 0.5 if name == "NES" else np.nan,
                        "quantizer.activation._target_": "sa.quantizer.levels.Levels",
                        "quantizer.activation.levels": 3.0 + (seed > 0),
                        "training/ratio": 1 - at / 5, "efficiency/at_evals/heldout": at / 9,
                        "smoothing/box/epsilon": [0.1, 1.0],
                        "smoothing/box/best": [0.2, 0.3], "smoothing/box/heldout": [0.1, 0.2],
                        "smoothing/gaussian/sigma": [0.01, 0.1, 1.0],
                        "smoothing/gaussian/best": [0.2, 0.3, 0.4 + seed],
                        "smoothing/gaussian/heldout": [0.1, 0.2, 0.3],
                        "smoothing/cosine": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
                        "critical_points/minimal_ratio": at / 9, "critical_points/index": 0.1,
                        "critical_points/loss": 0.1 + at, "critical_points/norm": 0.01 * (1 + at),
                        "critical_points/norm_start": 0.1, "critical_points/solver": "gnm",
                        "critical_points/status": ("critical", "stalled", "unconverged")[at % 3],
                        "steps": 9 if at % 2 else dim,
                        **{
                            f"input_sensitivity/{split}/{what}/mean": 1.0 + at + seed
                            for split in ("train", "test") for what in ("logits", "probabilities")
                        },
                        "train/loss": 0.1 * (at + 1), "test/loss": 0.2 * (at + 1 + seed),
                        "train/accuracy": 0.9 + at / 30,
                        "train/fitted": 0.7, "parameters": 100 * (at + 1) * dim,
                        "sharpness/lambda_max": 1.0 + at, "sharpness/sam": 0.1 + at + seed,
                        "interpolation/alpha": [0.0, 0.5, 1.0],
                        "interpolation/train/loss": [0.1, 0.4, 0.2],
                        "interpolation/test/loss": [0.2, 0.5, 0.3],
                        "interpolation/train/accuracy": [0.9, 0.5, 0.8],
                        "interpolation/test/accuracy": [0.8, 0.4, 0.7],
                        "surface/at": [-1.0, 0.0, 1.0],
                        "surface/losses": [float(1 + at + dim * i * i) for i in range(9)],
                        "analysis.surface.axes": ("random", "pca")[at % 2],
                        "surface/path/a": [1.0, 0.5, 0.0] if at % 2 else None,
                        "surface/path/b": [0.1, 0.2, 0.0] if at % 2 else None,
                        "surface/share_1": 0.75, "surface/share_2": 0.2,
                        "interpolation/barrier": 0.25 + seed, "interpolation/barrier/test": 0.2,
                        "interpolation/distance": 3.0, "stopped": "train/loss <= 0.5",
                        "sharpness/flip_mean": 0.1 * at, "sharpness/flip_max": 1.0 + at,
                        "cost/parameters": 50.0 * dim, "cost/bits": 50.0 * dim * (2 + at),
                        "rows": 100, "step": 10.0 * at,
                        "function_curve/x": [-1.0, 0.0, 1.0],
                        "function_curve/truth": [0.0, 1.0, 0.0],
                        "function_curve/value": [0.1, 0.9, 0.1 * seed],
                        "function_curve/collapsed": float(at == 3),
                        "moving": "[1]", "estimator.epsilon": 0.1 if name == "CDG" else np.nan,
                        "quant_error/worst": "fc2.weight", "quant_error/fc2.weight/sqnr": 9.0 + at,
                        "quant_error/fc2.weight/clipping": 0.25, "quant_error/fc2.weight/bits": 2,
                        "quant_error/fc2.weight/levels": 3.0 + at,
                        "quant_error/fc2.weight/needed": [5.0, 6.0 + seed, 8.0],
                        "sensitivity_bits/layers": "fc1.weight,head.weight",
                        "sensitivity_bits/bits": [2.0, 4.0], "sensitivity_bits/budget": 3.0,
                        "sensitivity_bits/base": 0.1, "sensitivity_bits/kendall/error": 0.5,
                        "sensitivity_bits/fc1.weight/loss": [0.3, 0.2 + seed / 100],
                        "sensitivity_bits/head.weight/loss": [0.4, 0.1],
                        "sensitivity_bits/fc1.weight/error": [2.0, 0.2],
                        "sensitivity_bits/head.weight/error": [1.0, 0.1],
                        "sensitivity_bits/even/loss": 0.5, "sensitivity_bits/even/heldout": 0.6,
                        "sensitivity_bits/ilp/loss": 0.4, "sensitivity_bits/ilp/heldout": 0.5,
                        "blocks/order": "head,fc1", "blocks/held_least": 0.9 + seed / 100,
                        "model._target_": "sa.model.mlp.MLP",
                        **{f"blocks/{b}/shapes": "2x3, 2" for b in ("fc1", "head")},
                        **{f"blocks/{b}/parameters": 8.0 for b in ("fc1", "head")},
                        **{f"blocks/{b}/part": 0.5 for b in ("fc1", "head")},
                        "blocks/fc1/share": 0.25 * (1 + seed),
                        "keep": 0.1 * (at + 1), "test/accuracy": 0.9 + at / 100,
                        "quantizer.activation.budget": 0.2 + dim / 40,
                        "target": "box" if name == "CDG" else "gaussian",
                        "alignment/eps0.1/cosine": 0.9, "alignment/eps0.1/cosine/fc1.weight": 0.8,
                        "quantizer.activation.normaliser": "max", "flip_rate": 0.4 - at / 10,
                        "dataset.n": dim, "run_id": f"{dim}{seed}{at}",
                        "quantizer.weight.bits": 2 + at,
                        "quantizer.weight.range": ("max", "mse")[seed % 2],
                        "quantizer.weight.train": ("auto", "fixed", "none", "auto")[at],
                        "quantizer.gradient.bits": 8, "batch_size": 16 * dim,
                        "stored.bits": 8.0, "stored.rounding": ("nearest", "stochastic")[at % 2],
                        "optimizer.lr": 10.0**-at,
                    }
                )  # fmt: skip
    made = pd.DataFrame(rows)
    norms = {"full": 2.0, "batch": 3.0, "lambda_max": 9.0, "edge": 20.0, "successive": 0.5}
    analysed = {f"gradient_norm/{k}": v for k, v in norms.items()}
    made = made.assign(**analysed)
    made.attrs["rows"] = lambda run: [
        {"step": i, "evals": 3.0 * i, "loss": 2.0**-i} | (analysed if i % 2 == 0 else {})
        for i in range(5)
    ]
    made.attrs["settings"] = [
        "dim",
        "model.dim",
        "seed",
        *(c for c in made if c.startswith("estimator.")),
    ]
    made.attrs["expectations"] = [
        {"id": "ternary_eps0.1_fc1", "predicate": "between", "value": [0.7, 0.8]},
        {"id": "nearest_8_stops", "predicate": "between", "value": [1.0, 3.0]},
        {"id": "other", "predicate": ">=", "value": 1.0},
    ]
    return made


def joined(one, two):
    """Return the rows of both tables with the attributes of the first."""
    both = pd.concat([one, two])
    both.attrs = one.attrs
    return both


def trained():
    """Return four trainings with their rows: descent and the flow; one reaches a goal."""
    runs, steps = [], {}
    for name, lr, seed in (("STE", 0.5, 0), ("Flow", 0.5, 0), ("STE", 0.25, 1), ("Flow", 0.25, 1)):
        far, lost = (1.0 if name == "STE" else 2.0), name == "Flow" and seed == 1
        rows = [{"step": t, "loss": 1 / (1 + lr * t), "evals": 3.0 * (t + 1)} for t in range(21)]
        for t in range(0, 21, 5):
            values = {"lambda_1": 2 / lr - 1 / (1 + t), "lambda_2": 0.5 / lr, "edge": 2 / lr}
            rows[t] |= {f"curvature/{k}": v for k, v in values.items()}
            rows[t] |= {"sketch/point": [far * t, 3.0]}
            shares = {"order": "head,fc1", "participation": [0.2, 0.1], "since": 5.0}
            shares |= {"head/shares": [0.75, 0.25], "fc1/shares": [0.25, 0.75]}
            shares |= {"head/size": 0.1, "fc1/size": 0.9, "displacement": lr / (1 + t)}
            rows[t] |= {f"eigenvectors/{k}": v for k, v in shares.items()}
        steps[f"{name}{seed}"] = rows
        runs.append(
            rows[-1]
            | {
                "estimator._target_": f"sa.estimator.x.{name}", "optimizer.lr": lr, "seed": seed,
                "optimizer.momentum": 0.0, "model._target_": "sa.model.fc.FC",
                "status": "diverged" if lost else "done",
                "stopped": None if lost else "train/loss <= 0.1" if lr == 0.5 else "steps",
                "train/loss": rows[-1]["loss"], "test/accuracy": 0.9, "run_id": f"{name}{seed}",
            }
        )  # fmt: skip
    made = pd.DataFrame(runs)
    made.attrs["rows"] = steps.get
    return made


TRAININGS = ("branches", "eigenvectors", "flow", "sharpness")
FEW = table(dims=(8,), names=("STE", "CDG"))
RESULTS = [c for c in FEW if "/" in c or c == "value"]


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def drawn(kind, given, folder, end="svg"):
    """Draw a kind in one format of three: that all are written is a law of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "FORMATS", (end,))
        return draw.draw(kind, given, folder)


@pytest.mark.parametrize("kind", draw.kinds())
def test_draw_writes_the_pictures_and_a_csv_of_their_numbers(kind, tmp_path):
    made = draw.draw(kind, trained() if kind in TRAININGS else FEW, tmp_path)
    assert [p.name for p in made] == [f"{kind}.{end}" for end in ("png", "svg", "pdf", "csv")]
    assert made[0].read_bytes()[:4] == b"\x89PNG" and made[0].stat().st_size > 10_000
    assert "<svg" in made[1].read_text()[:500]
    assert made[2].read_bytes()[:5] == b"%PDF-"
    assert not list(tmp_path.glob(".tmp*"))


def test_minimal_ratio_distinguishes_the_l1_route_from_each_status(tmp_path):
    given = table(dims=(8,))
    given.loc[given.index[:4], "critical_points/solver"] = "l1"
    tidy = pd.read_csv(drawn("minimal_ratio", given, tmp_path)[1])
    assert set(tidy["status"]) == {"l1 route", "critical", "stalled", "unconverged"}
    assert (tidy["status"] == "l1 route").sum() == 4


def test_random_labels_show_steps_to_the_goal_and_mark_missed_goals(tmp_path):
    given = table()
    given["step"] = range(10, 10 + len(given))
    given["stopped"] = ["steps", "train/accuracy >= 0.95"] * (len(given) // 2)
    tidy = pd.read_csv(drawn("random_labels", given, tmp_path)[1])
    assert tidy["steps"].tolist() == given["step"].tolist()
    assert tidy["reached"].tolist() == [False, True] * (len(given) // 2)


def test_best_decrease_is_relative_to_the_loss(tmp_path):
    given = table()
    tidy = pd.read_csv(drawn("best_decrease", given, tmp_path)[1])
    np.testing.assert_allclose(tidy["best"], given["descent/best"] / 2)
    np.testing.assert_allclose(tidy["best_heldout"], 0.9 * given["descent/best"] / 2)
    assert set(tidy["label"]) == {"STE clipped", "CDG", "NES", "random"}


def test_lr_decrease_table_has_every_step_length(tmp_path):
    given = table()
    tidy = pd.read_csv(drawn("lr_decrease", given, tmp_path)[1])
    assert len(tidy) == len(given) * len(LRS)
    one = tidy[(tidy["label"] == "CDG") & (tidy["dim"] == 16) & (tidy["seed"] == 1)]
    g = 0.5 + 0.16 + 0.1
    np.testing.assert_allclose(one["decrease"], (g * LRS - LRS**2) / 2)


def test_lr_decrease_has_a_panel_for_each_layer(tmp_path):
    weights = "quantizer.weight._target_"
    given = pd.concat(
        [
            table(dims=(8,), names=("STE", "CDG")).assign(
                **{"moving": layer, weights: f"sa.quantizer.x.{kind}"}
            )
            for kind in ("Identity", "Xnor")
            for layer in ("[1]", '["block8.*"]')
        ],
        ignore_index=True,
    )
    tidy = pd.read_csv(drawn("lr_decrease", given, tmp_path)[1])
    assert list(tidy["facet"].unique()) == [
        f"layer {layer}, {kind} weights"
        for kind in ("full-precision", "Xnor")
        for layer in ("1", "block8.*")
    ]


def test_error_bars_of_equal_seeds_are_not_negative(tmp_path):
    given = table(dims=(8,), seeds=(0, 1, 2))
    for column in ("alignment/cosine", "descent/best", "alignment/eps0.1/cosine"):
        given[column] = 0.1  # in floating point the mean of three is above 0.1
    lines = {"kind": "lines", "x": "dim", "y": "alignment/cosine"}
    for kind in ("alignment", "best_decrease", lines):
        assert drawn(kind, given, tmp_path)


def test_caption_explains_triangles(tmp_path):
    given = table(dims=(8,))  # decreases of g eta - eta^2 fall far below 0
    assert draw.BELOW.startswith("triangles:")
    assert "triangles:" in drawn("lr_decrease", given, tmp_path)[0].read_text()
    assert "triangles:" not in drawn("alignment", given, tmp_path)[0].read_text()


def test_a_narrow_logarithmic_axis_labels_few_ticks(tmp_path):
    given = table(dims=(16,), names=("STE", "CDG")).assign(parameters=np.linspace(1600, 2500, 4))
    words = drawn("parameters", given, tmp_path)[0].read_text()
    assert "times10^{3}" not in words
    assert 2 <= sum(f">{x}<" in words for x in range(1500, 2600, 100)) <= 5


def test_alignment_table_has_the_expected_cosine(tmp_path):
    tidy = pd.read_csv(drawn("alignment", table(), tmp_path)[1])
    assert tidy.loc[tidy["label"] == "NES", "expected"].eq(0.5).all()
    assert tidy.loc[tidy["label"] == "CDG", "expected"].isna().all()


def test_calibration_table_has_both_kernels_relative_to_the_loss(tmp_path):
    given = table(dims=(8,), names=("STE",))
    tidy = pd.read_csv(drawn("calibration", given, tmp_path)[1])
    last = tidy[(tidy["kind"] == "gaussian") & (tidy["scale"] == 1.0)]
    np.testing.assert_allclose(sorted(last["best"]), [0.2, 0.7])
    assert (tidy["kind"] == "box").sum() == 4


def evaluated(seeds=3, labels=("shallow", "deep"), steps=4):
    return pd.DataFrame(
        {"label": label, "seed": seed, "step": step, "train/loss": 2.0**-step + seed / 10,
         "test/loss": 1.0, "train/accuracy": 0.5}
        for label in labels for seed in range(seeds) for step in range(steps)
    )  # fmt: skip


def test_bands_are_quantiles_over_seeds_and_need_several(tmp_path):
    made = draw.draw("bands", evaluated(), tmp_path)
    assert made[0].stat().st_size > 10_000
    tidy = pd.read_csv(made[3])
    one = tidy[(tidy["label"] == "deep") & (tidy["number"] == "train/loss")].set_index("step")
    np.testing.assert_allclose(one["median"], [1.1, 0.6, 0.35, 0.225])
    np.testing.assert_allclose(one["low"], one["median"] - 0.09)
    np.testing.assert_allclose(one["high"], one["median"] + 0.09)
    with pytest.raises(ValueError, match="'shallow' has one seed.*seed=range"):
        drawn("bands", evaluated(seeds=1), tmp_path)
    over = evaluated().assign(epoch=lambda rows: rows["step"] / 2)
    over.attrs["over"] = "epoch"
    tidy = pd.read_csv(drawn("bands", over, tmp_path)[1])
    assert list(tidy["epoch"].unique()) == [0, 0.5, 1, 1.5]


def test_bands_of_a_single_step_are_points_side_by_side():
    given = evaluated(steps=1).assign(**{"test/loss": 2.0})
    with draw._style():
        kind = draw._kind("bands")
        figure = draw._pictures(kind, draw._with_parts(kind, given, True))[0][0]()
    for axis in figure.axes:
        lines = [line for line in axis.lines if len(line.get_xdata())]
        assert lines and all(line.get_marker() == "o" for line in lines)
        places = [float(line.get_xdata()[0]) for line in lines]
        assert len(set(places)) == len(lines)  # side by side
        low, high = axis.get_xlim()
        assert all(low < x < high for x in places) and len(axis.collections) == len(lines)


def test_band_ends_when_only_one_seed_is_left(tmp_path):
    given = evaluated(seeds=2)  # one of two ends after step 1, as its goal is reached
    given = given[(given["seed"] == 0) | (given["step"] < 2)]
    tidy = pd.read_csv(drawn("bands", given, tmp_path)[1])
    assert set(tidy["step"]) == {0, 1}


def test_parameters_mark_the_interpolation_threshold(tmp_path):
    given = table(dims=(8,), seeds=(0, 1, 2))
    tidy = pd.read_csv(drawn("parameters", given, tmp_path)[1])
    np.testing.assert_allclose(tidy["gap/loss"], tidy["test/loss"] - tidy["train/loss"])
    assert "interpolates from 3,200 parameters" in (tmp_path / "parameters.svg").read_text()


def test_parameters_shows_macs_and_bits_if_they_were_measured(tmp_path):
    given = table(dims=(8,), seeds=(0, 1, 2))
    given = given.assign(**{"cost/macs": 7 * given["parameters"], "cost/bits": 32.0})
    given.loc[given.index[0], "cost/macs"] = np.nan  # without a cost it is not drawn
    tidy = pd.read_csv(drawn("parameters", given, tmp_path)[1])
    assert len(tidy) == len(given) - 1 and set(tidy["cost/macs"]) <= {5600.0, 11200, 16800, 22400}
    text = (tmp_path / "parameters.svg").read_text()
    assert text.count("multiply-accumulates per row") == 3  # two axes and the legend
    assert text.count("bits that store") == 2


def test_sharpness_gap_gives_kendalls_tau_within_each_seed(tmp_path):
    given = table(dims=(8,), seeds=(0, 1))  # pooled seeds would give less
    drawn("sharpness_gap", given, tmp_path)
    text = (tmp_path / "sharpness_gap.svg").read_text()
    assert "τ = 1.00 [1.00, 1.00], 2 seeds" in text and "8 trainings" in text


def test_function_curve_counts_collapsed_networks(tmp_path):
    given = table(dims=(8,), seeds=(0, 1, 2, 3), names=("CDG",))
    given.loc[0, "function_curve/collapsed"] = 1.0
    tidy = pd.read_csv(drawn("function_curve", given, tmp_path)[1])
    assert "1 of 4 collapsed" in (tmp_path / "function_curve.svg").read_text()
    assert len(tidy) == 4 * 3 and set(tidy["kind"]) == {"CDG"}


def test_interpolation_and_random_labels_tables_have_every_run(tmp_path):
    tidy = pd.read_csv(drawn("interpolation", table(), tmp_path)[1])
    assert len(tidy) == 4 * 3 * len(table())
    tidy = pd.read_csv(drawn("random_labels", table(), tmp_path)[1])
    assert len(tidy) == len(table()) and (tidy["train/fitted"] == 0.7).all()


def test_surfaces_share_one_colour_scale_and_name_their_plane(tmp_path):
    given = table(dims=(8,), names=("STE", "CDG")).assign(quantized="fc1.weight: Sign()")
    tidy = pd.read_csv(drawn("surface", given, tmp_path)[1])
    assert len(tidy) == 9 * len(given) and tidy["loss"].max() == 2 + 8 * 64
    assert tidy["run"].str.contains("view=latent").all() and set(tidy["axes"]) == {"random", "pca"}
    text = (tmp_path / "surface.svg").read_text()
    for label in ("random direction 2", "PC 1 (unit: start to end), 75% of variance"):
        assert label in text
    assert text.count("one scale for all panels") == 1
    figure, tidy = surface(_label.prepared(table()))  # sixteen runs: the first seed's are drawn
    assert len(tidy) == 9 * 8 and len(figure.axes) == 8 + 1


def test_pairs_of_trainings_are_named_by_estimators_and_starts(tmp_path):
    def end(name, **more):
        return {"estimator": {"_target_": f"sa.estimator.x.{name}"}} | more

    given = table(dims=(8,), seeds=(0, 1), names=("STE", "CDG")).assign(configuration="long words")
    both = [[end("STE"), end(x, seed=100, init_seed=s)] for s in (0, 1) for x in ("STE", "CDG")]
    both[3][1]["init_seed"] = None  # then the start has seed 100
    told = _label.paired(given.assign(ends=[json.dumps(b) for b in both])).tolist()
    assert told == [
        "STE - STE, one start", "STE - CDG, one start",
        "STE - STE, one start", "STE - CDG, two starts",
    ]  # fmt: skip
    for ends in (json.dumps(["run", "other"]), None):
        assert set(_label.paired(given.assign(ends=ends))) == {"long words"}
    given = given.assign(ends=[json.dumps(b) for b in both])
    wide = given.assign(**{"model.hidden": [8, 8, 16, 16]})
    wide.attrs["settings"] = [*given.attrs["settings"], "model.hidden"]
    assert _label.paired(wide).tolist() == [
        f"{pair}, hidden={n}" for pair, n in zip(told, (8, 8, 16, 16), strict=True)
    ]
    tidy = pd.read_csv(drawn("barriers", given, tmp_path)[1])
    assert sorted(tidy["pair"]) == sorted(told) and tidy["interpolation/barrier"].max() == 1.25


def test_aligned_flips_leaves_out_trainings_that_missed_the_goal(tmp_path):
    given = table(dims=(8,))
    given.loc[given["run_id"] == "800", "stopped"] = "steps"
    tidy = pd.read_csv(drawn("aligned_flips", given, tmp_path)[1])
    assert len(tidy) == len(given) - 1
    np.testing.assert_allclose(tidy["mean"], 0.3 * tidy["end"])
    text = (tmp_path / "aligned_flips.svg").read_text()
    assert "τ = 1.00 [1.00, 1.00], 2 seeds" in text and "1 of 8 trainings missed" in text
    drawn("aligned_flips", given[given["seed"] == 0].head(2), tmp_path)
    assert "no seed has three trainings" in (tmp_path / "aligned_flips.svg").read_text()
    with pytest.raises(ValueError, match="no training reached the goal"):
        drawn("aligned_flips", given.assign(stopped="steps"), tmp_path)


def test_memorised_gives_the_size_that_fits_all_labels(tmp_path):
    given = table(dims=(8, 32)).assign(**{"quantizer.weight.bits": 2.0})
    given["train/accuracy"] = np.where(given["dim"] == 8, 0.49, 1.49)  # crosses half-way
    tidy = pd.read_csv(drawn("memorised", given, tmp_path)[1])
    assert set(tidy["parameters/row"]) == {4.0, 16.0}
    assert "weights of 2 bits: 8 parameters" in (tmp_path / "memorised.svg").read_text()
    never = memorised.needed(pd.Series([0.5, 1.0, 0.9], index=[1.0, 2.0, 4.0]))
    assert np.isnan(never) and memorised.needed(pd.Series([1.0, 0.995], index=[3.0, 6.0])) == 3.0


def test_cosine_layers_shows_expected_values_in_brackets(tmp_path):
    tidy = pd.read_csv(drawn("cosine_layers", table(dims=(8,), names=("STE",)), tmp_path)[1])
    assert set(tidy["layer"]) == {"all", "fc1"} and set(tidy["activation"]) == {"ternary", "2-bit"}
    mine = tidy[(tidy["layer"] == "fc1") & (tidy["activation"] == "ternary")]
    assert mine["cosine"].tolist() == [pytest.approx(0.8)]
    assert mine["expected"].tolist() == [pytest.approx(0.75)]
    assert tidy["expected"].notna().sum() == 1


def test_underflow_reads_the_steps_of_its_runs(tmp_path):
    given = table(dims=(8,))
    tidy = pd.read_csv(drawn("underflow", given, tmp_path)[1])
    assert len(tidy) == 5 * len(given)
    np.testing.assert_allclose(tidy["distance"], np.sqrt(2 * tidy["loss"] / 8))
    given.attrs = {}
    with pytest.raises(ValueError, match="over steps, and the table has one row a run"):
        drawn("underflow", given, tmp_path)


def test_rounding_distinguishes_normalisers_from_estimators_without_sampling(tmp_path):
    given = table(seeds=(0,))
    given.loc[given["estimator._target_"].str.endswith("CDG"), "flip_rate"] = np.nan
    tidy = pd.read_csv(drawn("rounding", given, tmp_path)[1])
    assert set(tidy["line"]) == {"max", "CDG"}
    assert tidy.loc[tidy["line"] == "CDG", "samples"].isna().all()
    assert set(tidy["rows"]) == {128, 256}


def test_sensitivity_bits_table_has_every_layer_and_width(tmp_path):
    given = table(dims=(8,), names=("STE",))
    tidy = pd.read_csv(drawn("sensitivity_bits", given, tmp_path)[1])
    assert len(tidy) == 2 * 2 * len(given)
    mine = tidy[(tidy["layer"] == "fc1.weight") & (tidy["seed"] == 1)]
    np.testing.assert_allclose(mine["rise"], [0.2, 0.11])
    np.testing.assert_allclose(mine["error"], [2.0, 0.2])


def test_quant_error_names_the_quantizer(tmp_path):
    given = table(dims=(8,), seeds=(0,), names=("STE",))
    given["quantizer.weight._target_"] = "sa.quantizer.uniform.Uniform"
    given["quantizer.weight.bits"] = 4
    tidy = pd.read_csv(drawn("quant_error", given, tmp_path)[1])
    assert tidy["quantizer"].tolist() == ["W uniform 4, A levels"]
    assert tidy["sqnr"].tolist() == [9.0] and tidy["tensor"].tolist() == ["fc2.weight"]


def test_blocks_table_has_every_block_in_network_order(tmp_path):
    given = table(dims=(8,), names=("STE",))
    tidy = pd.read_csv(drawn("blocks", given, tmp_path)[1])
    assert tidy["block"].tolist() == ["head", "fc1"] * 2 and (tidy["size"] == 0.5).all()
    assert tidy["share"].dropna().tolist() == [0.25, 0.5]
    assert set(tidy["shapes"]) == {"2x3, 2"} and set(tidy["held"]) == {0.9, 0.91}


def test_eigenvectors_table_has_the_shares_of_blocks_and_the_displacements(tmp_path):
    tidy = pd.read_csv(drawn("eigenvectors", trained(), tmp_path)[1])
    cells = tidy[tidy["block"].notna() & (tidy["run_id"] == "STE0")]
    got = cells.set_index(["block", "direction"])["share"].to_dict()
    assert got == {("head", 1): 0.75, ("head", 2): 0.25, ("fc1", 1): 0.25, ("fc1", 2): 0.75}
    moves = tidy[(tidy["run_id"] == "STE0") & tidy["displacement"].notna()]
    assert moves.set_index("step")["displacement"].to_dict()[5] == 0.5 / 6


def test_sharpness_table_has_every_step_and_eigenvalue(tmp_path):
    tidy = pd.read_csv(drawn("sharpness", trained(), tmp_path)[1])
    assert len(tidy) == 4 * 21 and {"lambda_1", "lambda_2", "edge", "lr"} <= set(tidy)
    assert tidy["lambda_1"].notna().sum() == 4 * 5
    at = tidy[(tidy["lr"] == 0.25) & (tidy["step"] == 5)]
    np.testing.assert_allclose(at["lambda_1"], 8 - 1 / 6)


def test_flow_table_has_the_distance_of_descent_from_the_flow(tmp_path):
    tidy = pd.read_csv(drawn("flow", trained(), tmp_path)[1])
    got = tidy[(tidy["what"] == "descent") & (tidy["lr"] == 0.5)].set_index("time")["distance"]
    assert got.dropna().to_dict() == {2.5: 0.5, 5.0: 0.5, 7.5: 0.5, 10.0: 0.5}
    with pytest.raises(ValueError, match="needs two runs, one with estimator=flow"):
        drawn("flow", trained().iloc[:1], tmp_path)


def test_branches_counts_steps_cost_and_failures(tmp_path):
    given = trained()
    tidy = pd.read_csv(drawn("branches", given, tmp_path)[1])
    assert tidy["estimator._target_"].nunique() == 2  # distinguished although they have one name
    tidy = tidy.set_index("run_id").loc[given["run_id"]]
    assert tidy["branch"].tolist() == ["GD 0.5", "GD 0.5", "GD 0.25", "GD 0.25"]
    assert tidy["gradients"].tolist() == [21.0] * 4 and tidy["steps"].tolist() == [20] * 4
    assert tidy["reached"].tolist() == [True, True, False, False]
    assert tidy["diverged"].tolist() == [False, False, False, True]


def test_an_epoch_of_minibatches_costs_one_gradient_in_branches(tmp_path):
    given = trained()
    given["rows"], given["batch_size"] = 200, [50.0, np.nan, 500.0, np.nan]
    tidy = pd.read_csv(drawn("branches", given, tmp_path)[1])
    tidy = tidy.set_index("run_id").loc[given["run_id"]]
    assert tidy["gradients"].tolist() == [21 / 4, 21, 21, 21]
    names = ["SGD 0.5, batch 50", "GD 0.5", "SGD 0.25, batch 500", "GD 0.25"]
    assert tidy["branch"].tolist() == names


def test_no_tick_next_to_a_power_of_ten_has_a_label():
    figure = _base.new_figure(3, 3)
    axis = figure.subplots()
    axis.set(yscale="log", ylim=(0.025, 0.13))
    _axis.thin_log_ticks(figure)
    texts = {axis.yaxis.get_minor_formatter()(x) for x in axis.yaxis.get_minorticklocs()} - {""}
    assert "0.09" not in texts and len(texts) >= 3


def test_labels_name_the_settings_that_vary_within_an_estimator():
    one = table(dims=(8,), seeds=(0,), names=("NES",))
    both = pd.concat([one, one.assign(**{"estimator.samples": 5000.0})], ignore_index=True)
    assert set(_label.labelled(both)["label"]) == {"NES N=500", "NES N=5000"}
    assert set(_label.labelled(one)["label"]) == {"NES"}
    both["estimator.samples"] = both["estimator.samples"].map({500.0: 1, 5000.0: 0})
    assert set(_label.labelled(both)["label"]) == {"NES N=1", "NES N=0"}, "numbers, not switches"


def test_caption_warns_of_different_targets():
    told = draw.targets(_label.labelled(table()))
    assert told.startswith("targets differ") and "CDG: box" in told
    assert draw.targets(_label.labelled(table(names=("CDG",)))) == ""
    rows = pd.DataFrame({"label": ["A x=1", "A x=2", "B"], "target": ["none", "none", "box"]})
    assert draw.targets(rows) == "targets differ (B: box; A: none)"
    rows["target"] = ["none", "box", "box"]
    assert draw.targets(rows) == "targets differ (A x=2, B: box; A x=1: none)"


def test_common_estimators_have_fixed_colours():
    some, all_ = (
        _base.palette(pd.Series(["NES"])),
        _base.palette(pd.Series(["CDG", "NES", "A"])),
    )
    assert some["NES"] == all_["NES"] and len(set(all_.values())) == 3


@pytest.mark.parametrize("kind", sorted({*draw.kinds()} - {*TRAININGS}))
@pytest.mark.parametrize(
    "given",
    [
        table(dims=(8,), seeds=(0,), names=("CDG",)),
        FEW.drop(columns=["descent/decrease_heldout", "descent/null_best", "cosine_expected"]),
        joined(FEW, FEW.assign(**dict.fromkeys(RESULTS), seed=FEW["seed"] + 2)),
    ],
    ids=["one run", "optional columns missing", "failed runs"],
)  # fmt: skip
def test_tables_without_optional_columns_are_drawn(kind, given, tmp_path):
    made = drawn(kind, given.reset_index(drop=True).copy(), tmp_path, "png")
    assert made[0].stat().st_size > 10_000


def test_unknown_kinds_and_missing_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="aligned_flips, alignment, bands, barriers, best_"):
        drawn("pie", table(), tmp_path)
    with pytest.raises(ValueError, match=r"no column descent/lr.*analysis=\[descent\]"):
        drawn("lr_decrease", table().drop(columns="descent/lr"), tmp_path)
    empty = table().assign(value=np.nan)
    with pytest.raises(ValueError, match="no run has a value of"):
        drawn("best_decrease", empty, tmp_path)
    assert not list(tmp_path.iterdir())


def rows(n=50):
    step = np.arange(n)
    seen = np.where(step % 10 == 0, 1.0, np.nan)
    loss = np.exp(-step / 10)
    return pd.DataFrame(
        {"step": step, "loss": loss, "train/loss": loss * seen, "test/loss": 2 * loss * seen,
         "train/accuracy": seen, "test/accuracy": 0.9 * seen}
    )  # fmt: skip


def test_curves_of_a_run_are_drawn_whichever_optional_columns_it_has(tmp_path):
    made = draw.curves(rows(), tmp_path, "a run")
    assert [p.name for p in made] == ["curves.png", "curves.svg", "curves.pdf", "curves.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(made[3])[list(rows())], rows())
    for column in ("train/accuracy", "loss", "test/loss"):
        assert draw.curves(rows().drop(columns=column), tmp_path)[0].exists()
    only = rows()[["step", "loss"]]
    assert draw.curves(only, tmp_path)[0].exists()


def test_a_probe_has_no_curves(tmp_path):
    with pytest.raises(ValueError, match="one row"):
        draw.curves(rows(1), tmp_path)


def test_variants_are_ranked_within_an_activation(tmp_path):
    tidy = pd.read_csv(drawn("variants", table(dims=(8,)), tmp_path)[1])
    assert set(tidy["activation"]) == {"ternary", "2-bit"}
    mine = tidy[tidy["activation"] == "ternary"]
    assert mine["label"].tolist() == ["random", "NES", "CDG", "STE clipped"]
    assert mine["rank"].tolist() == [1, 2, 3, 4]


def test_prediction_table_has_tau_of_each_result(tmp_path):
    tidy = pd.read_csv(drawn("prediction", table(dims=(8,)), tmp_path)[1])
    assert set(tidy["activation"]) == {"ternary", "2-bit"} and (tidy["tau"] == 1).all()
