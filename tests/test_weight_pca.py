"""Paths of trainings in their principal plane: closed forms, a reference, and run folders."""

import json

import numpy as np
import pytest

from sa.record import files, sweep
from sa.sweep import weight_pca
from sa.sweep.weight_pca import Trajectory, components, points_of, walks


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_eight_constant_trajectories_have_at_most_seven_components(draw):
    starts = draw.normal(size=(8, 400))
    still = [np.tile(s, (11, 1)) for s in starts]
    scores, shares = components(np.concatenate(still))
    assert len(shares) == 7 and scores.shape == (88, 7) and shares.sum() == pytest.approx(1)
    assert components(np.concatenate([x - x[0] for x in still]))[1].size == 0
    for path, control in zip(still, walks(still), strict=True):
        np.testing.assert_array_equal(path, control)


def test_components_equal_those_of_the_singular_value_decomposition(draw):
    x = draw.normal(size=(20, 7)) * np.arange(1, 8) + 3
    scores, shares = components(x)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(shares, s**2 / (s**2).sum())
    np.testing.assert_allclose(np.abs(scores), np.abs(u * s), atol=1e-9)


def test_a_straight_line_has_one_component_and_a_circle_two_equal_ones():
    t = np.linspace(0, 2 * np.pi, 41)[:-1]
    way = np.ones(30) / np.sqrt(30)
    assert components(np.outer(t, way))[1] == pytest.approx([1])
    plane = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 2)))[0]
    circle = np.stack([np.cos(t), np.sin(t)], 1) @ plane.T
    assert components(circle)[1] == pytest.approx([0.5, 0.5])


def test_a_random_walk_has_the_step_lengths_of_its_training_and_independent_directions(draw):
    path = np.cumsum(np.abs(draw.normal(size=(15, 2000))), axis=0)
    (walk,) = walks([path])
    lengths = [np.linalg.norm(np.diff(x, axis=0), axis=1) for x in (path, walk)]
    np.testing.assert_allclose(*lengths)
    ways = np.diff(walk, axis=0)
    assert abs(ways[0] @ ways[1]) < 0.1 * lengths[1][0] * lengths[1][1]
    assert components(walk)[1][0] < 0.8 < components(path)[1][0]
    np.testing.assert_array_equal(walk[0], path[0])


def test_layers_are_chosen_by_name_and_too_small_ones_are_refused(draw):
    weights = {"fc1.weight": draw.normal(size=(4, 6)), "fc1.bias": draw.normal(size=(4, 2))}
    path = Trajectory("a", [0, 1, 2, 3], weights)
    assert points_of([path], None)[0].shape == points_of([path], "fc1")[0].shape == (4, 8)
    assert points_of([path], "fc1.weight")[0].shape == (4, 6)
    with pytest.raises(files.RecordError, match="fc1.bias has 2 parameters, and a plane needs"):
        points_of([path], "fc1.bias")
    with pytest.raises(files.RecordError, match="no layer.*fc1.weight, fc1.bias"):
        points_of([path], "fc9")


def written(root, run, seed=0, width=5, replicas=None, steps=(0, 10, 20, 25)):
    """Write a finished run of 25 steps with a snapshot every ten; return its point."""
    draw, folder = np.random.default_rng(seed), root / "runs" / run
    (folder / "snapshots").mkdir(parents=True)
    hashed = {"snapshot_every": 10, "replicas": replicas, "seed": seed}
    files.write_json(folder / "meta.json", {"hashed": hashed})
    files.write_json(folder / "result.json", {"step": 25})
    lead = (replicas,) if replicas else ()
    for step in steps:
        arrays = {"params/w": draw.normal(size=(*lead, width, 3)), "params/b": np.ones((*lead, 4)),
                  "buffers/n": np.zeros(3), "redundant": np.array(["b"])}  # fmt: skip
        np.savez(folder / "snapshots" / f"{step:09d}.npz", **arrays)
    return {"run_id": run, "overrides": [f"seed={seed}"]}


def test_paths_are_read_from_run_folders_without_redundant_parameters(tmp_path):
    points = [written(tmp_path, f"r{i}", i) for i in range(3)]
    found = weight_pca.trajectories(tmp_path, points)
    assert [t.name for t in found] == ["seed=0", "seed=1", "seed=2"]
    assert found[0].steps == [0, 10, 20, 25] and list(found[0].weights) == ["w"]
    table = weight_pca.table(tmp_path, points)
    assert set(table["view"]) == {
        "joint", "centred", "own", "walk", "walk centred", "walk own"
    }  # fmt: skip
    joint = table[(table["view"] == "joint") & (table["scope"] == "whole")]
    assert (joint["what"] == "point").sum() == 12
    flat = np.concatenate([t.weights["w"] for t in found])
    shares = joint[joint["what"] == "share"]["share"]
    np.testing.assert_allclose(shares, components(flat)[1])
    alone = table[(table["view"] == "walk own") & (table["what"] == "share")]
    assert (alone.groupby("scope")["share"].sum() - 1).abs().max() < 1e-9
    (walk, *_) = walks([flat[:4]])
    other = table[(table["view"] == "walk own") & (table["run"] == "seed=0")]
    scores = components(walk)[0][:, 0]
    np.testing.assert_allclose(np.abs(other["pc1"][:4]), np.abs(scores))
    centred = table[(table["view"] == "centred") & (table["step"] == 0)]
    assert (centred.groupby("scope")[["pc1", "pc2"]].std() < 1e-9).all(axis=None)


def test_each_replica_is_a_path_of_its_own(tmp_path):
    found = weight_pca.trajectories(tmp_path, [written(tmp_path, "r", replicas=4)])
    assert len(found) == 4 and found[3].weights["w"].shape == (4, 15)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "snapshots" / "000000010.npz").unlink(), "lacks 1 of its 4.*of step 10"),
        (lambda f: (f / "result.json").unlink(), "not done"),
        (lambda f: files.write_json(f / "meta.json", {}), "snapshot_every=STEPS"),
    ],
)
def test_a_missing_or_damaged_snapshot_is_reported(tmp_path, spoil, told):
    points = [written(tmp_path, f"r{i}", i) for i in range(2)]
    spoil(tmp_path / "runs" / "r1")
    with pytest.raises(files.RecordError, match=told):
        weight_pca.table(tmp_path, points)


def test_paths_of_different_networks_are_refused(tmp_path):
    points = [written(tmp_path, "r0"), written(tmp_path, "r1", 1, width=6)]
    with pytest.raises(files.RecordError, match="different networks"):
        weight_pca.table(tmp_path, points)


def test_the_pca_command_draws_a_figure_and_prints_a_table(tmp_path, capsys):
    from sa.sweep.command import main

    points = [written(tmp_path, f"r{i}", i) for i in range(3)]
    points = [{"index": i, **p} for i, p in enumerate(points)]
    sweep.write_manifest(tmp_path, "paths", points, {})
    assert main(["pca", "paths", "--root", str(tmp_path), "--layer", "w"]) == 0
    out = capsys.readouterr().out
    assert "joint" in out and "walk centred" in out and "trajectories.png" in out
    assert (tmp_path / "sweeps/paths/figures/trajectories.png").stat().st_size > 10_000
    assert main(["pca", "paths", "--root", str(tmp_path), "--layer", "x"]) == 1
    assert "no layer" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs/r0/result.json").read_text()) == {"step": 25}
