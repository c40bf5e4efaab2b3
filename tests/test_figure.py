"""Figures draw the table they were given; what cannot be drawn says why."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from sa.figure import _paper, draw

LRS = np.geomspace(1e-3, 10, 25)


def table(dims=(8, 16), seeds=(0, 1), names=("STE", "CDG", "NES", "Random")):
    """Runs whose decrease is g eta - eta^2, with g depending on everything."""
    rows = []
    for dim in dims:
        for seed in seeds:
            for at, name in enumerate(names):
                g = (1 + at) / 4 + dim / 100 + seed / 10
                drop = g * LRS - LRS**2
                rows.append(
                    {
                        "dim": dim, "seed": seed, "estimator._target_": f"sa.estimator.x.{name}",
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
                        "batch_size": 32 * dim, "steps": 9 if at % 2 else dim,
                        "train/loss": 1.0 + seed, "test/loss": 2.0,
                        **{
                            f"input_sensitivity/{split}/{what}/mean": 1.0 + at + seed
                            for split in ("train", "test") for what in ("logits", "probabilities")
                        },
                        "target": "box" if name == "CDG" else "gaussian",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


RESULTS = [c for c in table() if "/" in c or c == "value"]


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kind", draw.kinds())
def test_writes_pictures_and_the_table_they_show(kind, tmp_path):
    made = draw.draw(kind, table(), tmp_path)
    assert [p.name for p in made] == [f"{kind}.{end}" for end in ("png", "svg", "csv")]
    assert made[0].read_bytes()[:4] == b"\x89PNG" and made[0].stat().st_size > 10_000
    assert "<svg" in made[1].read_text()[:500]
    assert not list(tmp_path.glob(".tmp*"))


def test_gradient_norm_is_drawn_from_analysed_steps(tmp_path):
    rows = [
        {
            "label": label, "seed": seed, "step": step, "loss": 1 / (1 + step),
            "gradient_norm/full": 2.0 + int(seed), "gradient_norm/batch": 3.0,
            "gradient_norm/lambda_max": 1.0 + step, "gradient_norm/edge": 20.0,
            "gradient_norm/successive": 0.5,
        }
        for label in ("shallow", "deep") for seed in "01" for step in (0, 10)
    ]  # fmt: skip
    rows += [{"label": "deep", "seed": "0", "step": 5, "train/loss": 0.1}]  # not analysed
    made = draw.draw("gradient_norm", pd.DataFrame(rows), tmp_path)
    tidy = pd.read_csv(made[2])
    assert len(tidy) == 8 and set(tidy["full"]) == {2.0, 3.0} and set(tidy["edge"]) == {20.0}
    with pytest.raises(ValueError, match="gradient_norm/batch"):
        draw.draw("gradient_norm", pd.DataFrame(rows).drop(columns="gradient_norm/batch"), tmp_path)


def test_the_l1_route_and_each_status_are_told_apart(tmp_path):
    given = table()
    given.loc[given.index[:4], "critical_points/solver"] = "l1"
    tidy = pd.read_csv(draw.draw("minimal_ratio", given, tmp_path)[2])
    assert set(tidy["status"]) == {"l1 route", "critical", "stalled", "unconverged"}
    assert (tidy["status"] == "l1 route").sum() == 4


def test_sensitivity_tells_the_budgets_apart(tmp_path):
    tidy = pd.read_csv(draw.draw("sensitivity", table(), tmp_path)[2])
    assert set(tidy["budget"]) == {"equal epochs", "equal steps (9)"}
    assert set(tidy["batch_size"]) == {256, 512} and tidy["test/logits"].max() == 5.0


def test_best_decrease_is_relative_to_the_loss(tmp_path):
    given = table()
    tidy = pd.read_csv(draw.draw("best_decrease", given, tmp_path)[2])
    np.testing.assert_allclose(tidy["best"], given["descent/best"] / 2)
    np.testing.assert_allclose(tidy["best_heldout"], 0.9 * given["descent/best"] / 2)
    assert set(tidy["label"]) == {"STE clipped", "CDG", "NES", "random"}


def test_lr_decrease_holds_every_point(tmp_path):
    given = table()
    tidy = pd.read_csv(draw.draw("lr_decrease", given, tmp_path)[2])
    assert len(tidy) == len(given) * len(LRS)
    one = tidy[(tidy["label"] == "CDG") & (tidy["dim"] == 16) & (tidy["seed"] == 1)]
    g = 0.5 + 0.16 + 0.1
    np.testing.assert_allclose(one["decrease"], (g * LRS - LRS**2) / 2)


def test_alignment_keeps_the_law(tmp_path):
    tidy = pd.read_csv(draw.draw("alignment", table(), tmp_path)[2])
    assert tidy.loc[tidy["label"] == "NES", "expected"].eq(0.5).all()
    assert tidy.loc[tidy["label"] == "CDG", "expected"].isna().all()


def test_calibration_holds_both_kinds_relative_to_the_loss(tmp_path):
    given = table(dims=(8,), names=("STE",))
    tidy = pd.read_csv(draw.draw("calibration", given, tmp_path)[2])
    last = tidy[(tidy["kind"] == "gaussian") & (tidy["scale"] == 1.0)]
    np.testing.assert_allclose(sorted(last["best"]), [0.2, 0.7])
    assert (tidy["kind"] == "box").sum() == 4


def test_labels_tell_what_varies_within_an_estimator():
    one = table(dims=(8,), seeds=(0,), names=("NES",))
    both = pd.concat([one, one.assign(**{"estimator.samples": 5000.0})], ignore_index=True)
    assert set(_paper.labelled(both)["label"]) == {"NES N=500", "NES N=5000"}
    assert set(_paper.labelled(one)["label"]) == {"NES"}


def test_different_targets_are_said():
    told = draw.targets(_paper.labelled(table()))
    assert told.startswith("targets differ") and "CDG: box" in told
    assert draw.targets(_paper.labelled(table(names=("CDG",)))) == ""


def test_colours_of_the_familiar_stay():
    some, all_ = (
        _paper.palette(pd.Series(["NES"])),
        _paper.palette(pd.Series(["CDG", "NES", "A"])),
    )
    assert some["NES"] == all_["NES"] and len(set(all_.values())) == 3


@pytest.mark.parametrize("kind", draw.kinds())
@pytest.mark.parametrize(
    "given",
    [
        table(dims=(8,), seeds=(0,), names=("CDG",)),
        table().drop(columns=["descent/decrease_heldout", "descent/null_best", "cosine_expected"]),
        pd.concat([table(), table(dims=(32,)).assign(**dict.fromkeys(RESULTS))]),
    ],
    ids=["one run", "optional columns missing", "failed runs"],
)  # fmt: skip
def test_thin_tables_are_drawn(kind, given, tmp_path):
    assert draw.draw(kind, given.reset_index(drop=True), tmp_path)[0].stat().st_size > 10_000


def test_unknown_kinds_and_missing_columns_are_said(tmp_path):
    with pytest.raises(ValueError, match="alignment, best_decrease, calibration"):
        draw.draw("pie", table(), tmp_path)
    with pytest.raises(ValueError, match="no column descent/lr.*sa.sweep collect"):
        draw.draw("lr_decrease", table().drop(columns="descent/lr"), tmp_path)
    empty = table().assign(value=np.nan)
    with pytest.raises(ValueError, match="no run has a result"):
        draw.draw("best_decrease", empty, tmp_path)
    assert not list(tmp_path.iterdir())


def rows(n=50):
    step = np.arange(n)
    seen = np.where(step % 10 == 0, 1.0, np.nan)
    loss = np.exp(-step / 10)
    return pd.DataFrame(
        {"step": step, "loss": loss, "train/loss": loss * seen, "test/loss": 2 * loss * seen,
         "train/accuracy": seen, "test/accuracy": 0.9 * seen}
    )  # fmt: skip


def test_curves(tmp_path):
    made = draw.curves(rows(), tmp_path, "a run")
    assert [p.name for p in made] == ["curves.png", "curves.svg", "curves.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(made[2])[list(rows())], rows())
    for column in ("train/accuracy", "loss", "test/loss"):
        assert draw.curves(rows().drop(columns=column), tmp_path)[0].exists()
    only = rows()[["step", "loss"]]
    assert draw.curves(only, tmp_path)[0].exists()


def test_a_probe_has_no_curves(tmp_path):
    with pytest.raises(ValueError, match="one row"):
        draw.curves(rows(1), tmp_path)


def test_variants_are_ranked_within_an_activation(tmp_path):
    tidy = pd.read_csv(draw.draw("variants", table(dims=(8,)), tmp_path)[2])
    assert set(tidy["activation"]) == {"ternary", "2-bit"}
    mine = tidy[tidy["activation"] == "ternary"]
    assert mine["label"].tolist() == ["random", "NES", "CDG", "STE clipped"]
    assert mine["rank"].tolist() == [1, 2, 3, 4]


def test_prediction_tells_how_well_each_figure_orders(tmp_path):
    tidy = pd.read_csv(draw.draw("prediction", table(dims=(8,)), tmp_path)[2])
    assert set(tidy["activation"]) == {"ternary", "2-bit"} and (tidy["tau"] == 1).all()
