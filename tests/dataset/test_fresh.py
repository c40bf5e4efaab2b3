"""New rows at every step: from the seed and the step alone, however a run is computed."""

from pathlib import Path

import pytest
import torch
import yaml
from commands import SMALL, folder
from conftest import component, studied

from sa.objective.prepare import prepare
from sa.params import stream
from sa.record import identity
from sa.record import run as record
from sa.sweep.table import configured
from sa.training import replicas

WORDS = [*SMALL, "analysis=[]", "steps=8", "evaluate_every=4", "dataset.fresh=true"]


def task(fresh=True, **settings):
    data = component("dataset", "gaussian", dim=3, n=64, fresh=fresh)
    return studied(model=component("model", "toy_mlp"), dataset=data, **settings)


def test_the_rows_of_a_step_are_drawn_from_its_number_and_evaluation_rows_stay():
    problem, fixed = prepare(task(batch_size=16), 5), prepare(task(False, batch_size=16), 5)
    for step in (0, 7):
        rows = torch.randn(16, 3, generator=stream(5, "rows", step), dtype=torch.float64)
        assert torch.equal(problem.batches(step).inputs, rows)
        assert torch.equal(problem.batches(step).targets, problem.batches(step).targets)
    assert prepare(task(), 5).batches(1).rows == 64
    for mine, other in zip(problem.data, fixed.data, strict=True):
        assert all(map(torch.equal, mine, other))


def test_new_rows_get_their_targets_from_the_target_network_of_the_run():
    problem = prepare(task(), 5)
    teacher = task().model.build(stream(5, "target")).eval()
    with torch.no_grad():
        assert torch.equal(problem.batches(3).targets, teacher(problem.batches(3).inputs))
        assert torch.equal(problem.data.test.targets, teacher(problem.data.test.inputs))


def test_the_loss_of_a_step_does_not_depend_on_how_its_rows_are_parted():
    whole, parted = prepare(task(), 5), prepare(task(memory=20_000), 5)
    values = {float(p.objective(p.batch(2), 2).value(p.params)) for p in (whole, parted)}
    assert max(values) - min(values) < 1e-14
    assert len({float(whole.objective(whole.batch(t), t).value(whole.params)) for t in (2, 3)}) == 2


def test_each_of_several_networks_sees_the_rows_that_it_would_see_alone():
    together = replicas.stack(task(batch_size=16), 4, 3).batches(6)
    for at in range(3):
        alone = prepare(task(batch_size=16), 4 + at).batches(6)
        assert torch.equal(together.inputs[:, at], alone.inputs)
        assert torch.equal(together.targets[:, at], alone.targets)


def test_a_killed_run_and_one_of_two_processes_see_the_same_rows(sa):
    whole = record.read_rows(folder(sa(*WORDS, "root=calm")[1]))
    append = record.Record.append

    def killed(self, row):
        append(self, row)
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.Record, "append", killed)
        assert sa(*WORDS, "checkpoint_seconds=0")[0] == 130
    code, out, _ = sa(*WORDS, "checkpoint_seconds=0")
    assert code == 0 and "going on from step" in out
    assert record.read_rows(folder(out)) == whole
    code, out, err = sa(*WORDS, "processes=2", "root=two")
    assert code == 0, err
    losses = [[row["loss"] for row in rows] for rows in (record.read_rows(folder(out)), whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9) and len(set(losses[1])) == 9


def test_a_run_without_it_has_the_id_that_it_had_before(sa):
    words = [*SMALL, "analysis=[]"]
    plain = folder(sa(*words)[1])
    config = yaml.safe_load((plain / "config.yaml").read_text())
    assert config["dataset"].pop("fresh") is False
    assert identity.run_id(config) == plain.name
    assert folder(sa(*words, "dataset.fresh=false")[1]) == plain
    assert folder(sa(*words, "dataset.fresh=true")[1]) != plain


def test_a_table_shows_one_value_for_runs_older_than_the_setting(tmp_path):
    gaussian = "sa.dataset.gaussian.Gaussian"
    data = {"old": {}, "off": {"fresh": False}, "on": {"fresh": True}, "other": {"_target_": "x"}}
    for name, own in data.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        config = {"seed": 0, "dataset": {"_target_": gaussian, **own}}
        (tmp_path / "runs" / name / "config.yaml").write_text(yaml.safe_dump(config))
    points = [{"run_id": name, "overrides": []} for name in data]
    got = [c["dataset"].get("fresh") for c in configured(tmp_path, points)]
    assert got == [False, False, True, None]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["epochs=2"], "with dataset.fresh=true no row comes twice, so there are no epochs"),
        (
            ["steps=2", "estimator=flow", "quantizer=fp", "optimizer.momentum=0"],
            "dataset.fresh=true also takes other rows at every step",
        ),
        (["steps=2", "batch_size=200"], "a step takes 200 rows, and the dataset has only 128"),
    ],
)
def test_what_needs_the_same_rows_again_is_refused(sa, words, why):
    code, _, err = sa(*SMALL, "analysis=[]", "dataset.fresh=true", *words)
    assert code == 2 and why in err and not Path("runs").exists()
