"""A command line's settings: plans, sizes, budgets, experiments, and what Hydra reads of them."""

import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from sa import run
from sa.config import study
from sa.config.argv import one_budget, read
from sa.config.catalogue import CONF, GROUPS, top
from sa.config.error import UsageError
from sa.config.parents import resolve
from sa.launch import driver, plan, single
from sa.record import files, identity, sweep

MAPPINGS = "until={test/accuracy:0.7},{train/loss:0.3}"
GOALS = ["experiment=digits_ste", "evaluate_every=20"]
PLANS = {
    "mappings": [*GOALS, MAPPINGS],
    "mappings_and_options": [*GOALS, MAPPINGS, "estimator=ste,ste_tanh"],
    "mappings_of_the_same_keys": [*GOALS, "until={train/loss:0.3},{train/loss:0.1},null"],
    "merged_by_force": [*GOALS, "++until={train/loss:0.3},{test/loss:0.2}", "seed=0,1"],
    "a_value_then_a_forced_one": ["estimator.scale=1,2", "++estimator.scale=3,4"],
    "a_forced_mapping_over_a_swept_one": [*GOALS, MAPPINGS, "++until={train/accuracy:0.9}"],
    "lists_of_mappings": [
        "ends=[{steps: 3},{steps: 4}],[{seed: 1, steps: 3},{steps: 4}]", "analysis=[]",
    ],
    "inside_a_mapping": [
        "ends={first:{steps:3},second:{steps:4,seed:2}}", "ends.first.steps=1,2", "analysis=[]",
    ],
    "a_mapping_or_none": ["init=none,ste_100", "quantizer=fwba,fp"],
    "zipped": ["dim=4,5", "seed=0,1", "estimator=cdg,nes", "sweep.zip=[dim,seed]"],
    "listed": ["seed=0,1", "sweep.points=['dim=5','estimator=nes dim=6 estimator.sigma=0.2']"],
    "listed_mappings": [
        "batch_size=64",
        "sweep.points=[{batch_size: null, decay_all: true},{optimizer: adam, moving: [fc1.weight]},"
        "{until: {train/loss: 0.1}, steps: 3, evaluate_every: 1}]",
    ],
    "listed_with_spaces": ["sweep.points=['ends=[{steps: 3}, {steps: 4}] analysis=[]','dim=3']"],
    "deleted": ["~sweep.wait", "++sweep.wait=true", "dim=3,4"],
    "deleted_setting": ["optimizer=sgd", "~optimizer.momentum", "optimizer.lr=0.1,0.2"],
    "interpolated": ["dim=4,8", "dataset.n=${dim}"],
    "several_groups": ["estimator=cdg,nes", "quantizer=fwba,bwba", "optimizer=sgd,adam"],
    "presets_and_their_parts": ["quantizer=fwba,fp", "quantizer/weight=none,sign", "dim=4,5"],
    "experiments": ["experiment=digits_ste,null", "steps=5,6"],
    "a_study": ["experiment=branches", "seed=0,1"],
    "a_studys_full_size": ["experiment=descent_dims", "size=full", "seed=0"],
    "budgets": ["experiment=digits_ste", "epochs=1,2"],
    "listed_budgets": ["experiment=digits_ste", "sweep.points=['epochs=1','steps=7']"],
    "only_where_it_exists": ["estimator=ste,cdg,nes", "estimator.sigma=0.01,0.1,1", "dim=3,4"],
    "excluded": ["dim=4,5", "seed=0,1", "sweep.exclude=['dim=4 seed=1']"],
    "quoted": ["description='a, b'", "seed=0,1"],
    "text_that_looks_otherwise": ['metric="1"', "dim=3,4"],
}  # fmt: skip


@pytest.fixture
def planned(monkeypatch, capfd, tmp_path):
    """Return a function that composes a command without running it: (points, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_ROOT", raising=False)
    found = []
    monkeypatch.setattr(
        driver,
        "multirun",
        lambda configs, _, words, *__: found.extend(zip(words, configs)),  # noqa: B905
    )
    monkeypatch.setattr(
        single, "single", lambda config, typed: found.append((typed, config)) or 0.0
    )

    def typed(*words):
        GlobalHydra.instance().clear()
        found.clear()
        monkeypatch.setattr(sys, "argv", ["sa", *words])
        try:
            run.main()
        except SystemExit as end:
            assert end.code == 2
            found.clear()
        return list(found), capfd.readouterr().err

    return typed


@pytest.mark.parametrize("words", PLANS.values(), ids=PLANS)
def test_every_point_of_a_plan_has_the_run_id_of_its_settings_typed_alone(planned, words):
    points, err = planned("-m", *words)
    assert len(points) > 1, err
    for mine, config in (*points[:2], points[-1]):
        ((_, alone),), err = planned(*mine)
        assert config == alone, err
        assert identity.run_id(resolve(config)) == identity.run_id(resolve(alone))
    assert len({identity.run_id(resolve(config)) for _, config in points}) > 1


def test_a_listed_point_is_read_as_it_would_be_typed():
    assert plan.listed({"batch_size": None, "compile": True, "until": {"train/loss": 0.1}}) == [
        "batch_size=null", "compile=true", "until={train/loss:0.1}",
    ]  # fmt: skip
    assert plan.listed("ends=[{steps: 3}, {steps: 4}]  description='a b' seed=1") == [
        "ends=[{steps: 3}, {steps: 4}]", "description='a b'", "seed=1",
    ]  # fmt: skip


@pytest.mark.parametrize(("words", "told"), [
    (["sweep.points=['hydra/launcher=local dim=3','dim=4']"], "it belongs to the sweep as a whole"),
    (["sweep.points=['dim=3,4']"], "has one value of a setting"),
    (["sweep.points=['estimator=cdg estimator.sigma=1','estimator=nes']"], "estimator.sigma"),
    (["estimator=ste,cdg", "estimator.sigma=0.1,1"], "estimator.sigma: there is no such setting"),
    (["estimator=null,ste"], "estimator=null: there is no such estimator"),
    (["steps=5", "epochs=1,2"], "steps=5 epochs=1: both set how long"),
])  # fmt: skip
def test_a_contradictory_plan_is_refused(planned, words, told):
    points, err = planned("-m", *words)
    assert not points and told in err and "Traceback" not in err


def test_a_setting_is_swept_only_over_the_options_that_have_it(planned):
    words = ["estimator=ste,cdg,nes", "estimator.sigma=0.01,0.1,1"]
    points, err = planned("-m", *words)
    assert [p[0] for p in points] == [
        ["estimator=ste"],
        ["estimator=cdg"],
        *(["estimator=nes", f"estimator.sigma={s}"] for s in ("0.01", "0.1", "1")),
    ]
    assert "note: estimator.sigma: " in err and "estimator=ste, estimator=cdg" in err
    points, err = planned("-m", "estimator=nes,cdg", "estimator.samples=9", "seed=0,1")
    assert len(points) == 4 and "estimator.samples: " in err and "estimator=cdg;" in err


@pytest.mark.parametrize(("words", "steps"), [
    (["experiment=digits_ste", "epochs=5"], 5 * (1437 // 64)),
    (["experiment=digits_ste", "steps=0", "epochs=5"], 5 * (1437 // 64)),
    (["experiment=digits_ste", "epochs=null"], 1500),
    (["experiment=digits_ste", "steps=7"], 7),
    (["experiment=digits_xnor", "steps=7"], 7),  # the preset sets epochs
    (["experiment=digits_xnor", "steps=0"], 0),
    (["experiment=digits_bits", "size=full", "seed=0", "steps=7"], 7),  # its full size sets epochs
    (["experiment=edge_of_stability", "size=full", "seed=0", "epochs=3"], 3),
])  # fmt: skip
def test_a_typed_budget_replaces_the_presets(planned, words, steps):
    points, err = planned(*(["-m"] if "size=full" in words else []), *words)
    assert {resolve(config)["steps"] for _, config in points} == {steps}, err


@pytest.mark.parametrize("words", [["steps=5", "epochs=5"], ["epochs=5", "steps=110"]])
def test_two_typed_budgets_are_refused(planned, words):
    points, err = planned("experiment=digits_ste", *words)
    assert not points and "both set how long the training is; give one of them" in err
    assert one_budget(["epochs=2", "steps=0"]) == ["epochs=2", "steps=0"]


def test_size_full_names_a_sweep_of_its_own():
    full = ["-m", "experiment=descent_dims", "size=full"]
    assert "sweep.name=descent_dims-full" in read(full).for_points
    words = read([*full, "sweep.name=mine"]).for_points
    assert [w for w in words if w.startswith("sweep.name")] == ["sweep.name=mine"]
    for path in (CONF / "experiment").glob("*.yaml"):  # the rule holds for all studies
        assert all("sweep.name" not in sets for sets in study.sizes(path.stem).values()), path


def test_a_list_in_a_size_gives_the_values_of_a_sweep():
    size = {
        "dim": [8, 16], "batch_size": [None, 256], "seed": "range(3)", "model.shape": [[3, 32, 32]],
        "model.hidden": [[8], [8, 8]], "~dataset.size": None, "until": {"train/loss": 0.1},
        "sweep.points": [{"estimator": "cdg", "of": [1]}], "sweep.exclude": [{"seed": "[1-9]"}],
    }  # fmt: skip
    assert study.words(size) == [
        "dim=8,16", "batch_size=null,256", "seed=range(3)", "model.shape=[3,32,32]",
        "model.hidden=[8],[8,8]", "~dataset.size", "until={train/loss:0.1}",
        "sweep.points=[{estimator:cdg,of:[1]}]", "sweep.exclude=[{seed:'[1-9]'}]",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"dim: \[\] has no values"):
        study.words({"dim": []})


def test_a_typed_setting_replaces_that_of_a_size():
    words = read(["-m", "experiment=descent_dims", "size=full", "estimator=ste", "epochs=3"])
    assert words.for_points == [
        "dim=8,16,32,64", "estimator=ste", "seed=range(5)", "dataset.n=16384",
        "sweep.name=descent_dims-full", "epochs=3", 
    ]  # fmt: skip
    plain = ["experiment=descent_dims", "seed=1"]
    assert read(plain).for_hydra == plain


def test_no_experiment_holds_command_line_text():
    for path in (CONF / "experiment").glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        sweep, told = node.get("sweep", {}), node.get("expectations", [])
        given = [node.get("sizes"), sweep.get("points"), sweep.get("exclude")]
        for text in texts([*given, [[e.get("where"), e.get("against")] for e in told]]):
            assert "=" not in text and ("," not in text or text[0] == "*"), (path.stem, text)


def texts(value):
    """Return every text in a value, without the keys of mappings."""
    if isinstance(value, dict | list):
        return [t for v in (value.values() if isinstance(value, dict) else value) for t in texts(v)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "experiment"])
@pytest.mark.parametrize("value", ["null", "5", "true", "[null]"])
def test_an_unknown_option_of_a_group_is_refused(planned, group, value):
    points, err = planned(f"{group}={value}")
    assert not points and f"{group}=" in err and "there is no such" in err
    assert "Traceback" not in err


def test_experiment_null_is_the_same_as_no_experiment(planned):
    ((_, config),), err = planned("experiment=null", "seed=3")
    assert not err and config == planned("seed=3")[0][0][1]


@pytest.mark.parametrize("key", top())
def test_removing_a_setting_is_refused_or_gives_the_same_run(planned, key):
    points, err = planned(f"~{key}")
    plain = planned()[0][0][1]
    try:
        found = [resolve(config) for _, config in points]
    except UsageError as error:
        err, found = str(error), []
    assert found or (key in err and "Traceback" not in err)
    for config in found:  # removing analysis gives analysis=[], another run
        assert identity.run_id(config) == identity.run_id(resolve(plain)) or key == "analysis"


FLAGS = [
    (["--nope"], "--nope: there is no such option"),
    (["-x"], "-x: there is no such option"),
    (["--hlep"], "did you mean --help?"),
    (["--cfg"], "--cfg: expected --cfg job|hydra|all"),
    (["--cfg", "nope"], "--cfg nope: expected --cfg job|hydra|all"),
    (["--info=nope"], "--info nope: expected"),
    (["--resolve"], "--resolve: alone it changes nothing; type --cfg job --resolve"),
    (["--package", "x"], "--package: alone it changes nothing; type --cfg job"),
    (["--cfg", "job", "--info"], "give one of --cfg"),
    (["-m", "--run"], "give one of them"),
    (["--experimental-rerun", "x"], "there is no such option"),
    (["--config-name=nope"], "--config-name=nope: there is no such file"),
    (["-cn", "nope", "-m"], "--config-name=nope: there is no such file"),
    (["--config-dir=nope"], "nope' not found"),
    (["-m", "--cfg", "job", "seed=0,1"], "seed=0,1 lists several values: --cfg and --info show"),
    (["hydra.run.dir=X"], "set root=FOLDER"),
    (["-m", "hydra.sweep.dir=X"], "set root=FOLDER"),
    (["-m", "hydra.sweep.subdir=X"], "set root=FOLDER"),
    (["hydra.output_subdir=X"], "set root=FOLDER"),
    (["hydra.job.chdir=true"], "set root=FOLDER"),
    (["++hydra.run.dir=X"], "set root=FOLDER"),
    (["~hydra.run.dir"], "set root=FOLDER"),
    (["hydra.mode=MULTIRUN"], "write -m to sweep"),
    (["hydra=null"], "hydra=null: it cannot be replaced as a whole"),
    (["sweep=null"], "sweep=null: it cannot be replaced as a whole"),
    (["-m", "sweep="], "it cannot be replaced as a whole"),
    (["root="], "root=: expected a folder"),
    (["root=''"], "root=: expected a folder"),
]


@pytest.mark.parametrize(("words", "told"), FLAGS, ids=[" ".join(w) for w, _ in FLAGS])
def test_invalid_hydra_options_and_settings_are_refused(planned, words, told):
    points, err = planned(*words)
    assert not points and told in err and "Traceback" not in err
    assert not list(Path(".").iterdir())


@pytest.mark.parametrize("first", [[], ["-m"]])
def test_cfg_shows_the_configuration_with_and_without_m(planned, capfd, first):
    points, err = planned(*first, "--cfg", "job", "seed=3")
    assert not points and not err


@pytest.mark.parametrize("name", ["a" * 300, "''", "[a]", "true", "..", "-x", "a/b", "'a b'"])
def test_an_invalid_sweep_name_is_refused(planned, tmp_path, name):
    ((_, config),), err = planned(f"sweep.name={name}")
    with pytest.raises((UsageError, files.Missing), match=r"cannot be named|expected a name"):
        sweep.sweep_folder(tmp_path, resolve(config)["sweep"]["name"])


def test_a_sweep_may_be_named_by_a_number(planned):
    ((_, config),), err = planned("sweep.name=5")
    assert resolve(config)["sweep"]["name"] == "5"


def test_a_users_own_experiment_may_choose_the_launcher(planned, monkeypatch, tmp_path):
    text = "# @package _global_\ndefaults: [override /hydra/launcher: local]\ndescription: mine\n"
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text)
    chosen = []
    monkeypatch.setattr(driver, "multirun", lambda *given: chosen.append(given[3].kind))
    own = ["-m", f"--config-dir={tmp_path / 'mine'}", "experiment=own"]
    for words in (own, [*own, "hydra/launcher=inline"], ["-m"], ["-m", "hydra/launcher=basic"]):
        planned(*words, "seed=0,1")
    assert chosen == ["Local", "Inline", "Inline", "Inline"]


OLD_FORMS = {
    "sweep: {points: [dim=8 estimator=cdg]}": "- {dim: 8, estimator: cdg}",
    "sweep: {exclude: ['dim=8 seed=[1-9]']}": "- {dim: 8, seed: [1-9]}",
    "full: ['dim=8,16']": "sizes: {full: {KEY: VALUE, KEY: [VALUE, VALUE]}}",
    "hydra: {sweeper: {params: {dim: '8,16'}}}": "sizes: {quick: {KEY: [VALUE, VALUE]}}",
    "sizes: {quick: [dim=8]}": "sizes: {quick: {seed: [0, 1]}",
    "sizes: {Small: {dim: 8}}": "sizes: {quick: {seed: [0, 1]}",
}
"""Former texts of experiments, and what their refusal says to write instead."""


@pytest.mark.parametrize("old", OLD_FORMS)
def test_command_line_text_in_an_experiment_is_refused_with_the_mapping_to_write(
    planned, tmp_path, old
):
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"# @package _global_\ndescription: mine\n{old}\n")
    points, err = planned("-m", f"--config-dir={own.parents[1]}", "experiment=own", "seed=0,1")
    assert not points and OLD_FORMS[old] in err and "Traceback" not in err


def test_a_users_own_experiment_may_have_sizes(planned, tmp_path):
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# @package _global_\nsizes: {quick: {seed: [0, 1]}, full: {dim: [4, 5], steps: 3}, "
        "images: {dim: [6, 7, 8]}}\n"
    )
    first = ["-m", "--config-dir", str(own.parents[1]), "experiment=own"]
    counts = {"size=quick": 2, "size=full": 4, "size=images": 6, "seed=7": 1}
    for word, many in counts.items():
        points, err = planned(*first, word)
        assert len(points) == many, err
    assert "sweep.name=own-images" in read([*first, "size=images"]).for_points
    points, err = planned(*first, "size=small")
    assert not points and "experiment=own has size=quick and size=full and size=images" in err
    points, err = planned(*first[1:], "seed=7")
    assert len(points) == 1 and points[0][1]["steps"] == 0, err
    points, err = planned(*first[1:], "size=full", "dim=4")  # what is typed is not swept
    assert len(points) == 1 and points[0][1]["steps"] == 3, err


def test_sizes_come_from_the_experiment_that_runs_however_it_is_found(planned, tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "heir.yaml").write_text(
        "# @package _global_\ndefaults: [descent_dims, _self_]\ndescription: mine\n"
    )
    own = str(folder.parent)
    for words in (
        ["experiment=calibration", "experiment=descent_dims"],  # Hydra uses the last
        ["experiment='descent_dims'"],
        ["--config-dir", own, "experiment=heir"],
        [f"hydra.searchpath=[file://{own}]", "experiment=heir"],
    ):
        points, err = planned("-m", *words)
        assert len(points) == 36, (words, err)
    points, err = planned("-m", "--config-dir", own, "experiment=heir", "estimator=cdg")
    assert len(points) == 9, err


OLD_WORDS = {
    "objective=loss": "metric=loss",
    "++objective=loss": "metric=loss",
    "-m objective=loss,value seed=0,1": "metric=loss,value",
    "~objective": "metric=null",
    "-m sweep.points=[{objective:loss},{seed:1}]": "metric=VALUE",
    "--help objective": "--help metric",
}


@pytest.mark.parametrize("line", OLD_WORDS)
def test_a_setting_typed_by_its_old_name_is_refused_with_the_new_name(planned, line):
    points, err = planned(*line.split())
    assert not points and "Traceback" not in err
    assert f"this setting is called metric now; type {OLD_WORDS[line]}" in err


@pytest.mark.parametrize("text", ["objective: loss", "sizes: {quick: {objective: [loss, value]}}"])
def test_an_experiment_with_an_old_name_of_a_setting_is_refused(planned, tmp_path, text):
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"# @package _global_\n{text}\n")
    points, err = planned("-m", f"--config-dir={own.parents[1]}", "experiment=own", "seed=0,1")
    if points:  # it composes; `resolve` refuses it
        with pytest.raises(UsageError, match="is called metric now; type metric=loss"):
            resolve(points[0][1])
    else:
        assert "objective: this setting is called metric now; type metric=VALUE" in err


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "is not YAML"), ("- a", "expected lines KEY: VALUE")]
)
def test_a_damaged_experiment_of_the_user_is_named(planned, tmp_path, text, told):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    _, err = planned("-m", "--config-dir", str(tmp_path), "experiment=own")
    assert told in err and "own.yaml" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiment=descent_dims", "size=full"], "type -m"),
        (["experiment=cifar_depth", "size=images"], "it sweeps seed; type -m"),
        (["-m", "++sizes={quick:{seed:[0,1]}}"], "type the settings themselves"),
        (["-m", "hydra.sweeper.params.seed=5"], "type KEY=VALUE,VALUE"),
    ],
)
def test_a_command_that_cannot_run_is_refused_with_what_to_type(planned, words, told):
    points, err = planned(*words)
    assert not points and told in err and "Traceback" not in err


def test_a_comma_inside_a_value_of_a_size_does_not_split_it():
    size = {"metric": ["a,b", "c"], "moving": [["fc1.*", "a,b"]]}
    assert study.words(size) == ["metric='a,b',c", "moving=[fc1.*,'a,b']"]


def test_a_listed_point_may_hold_an_interpolation():
    assert plan.listed({"init_seed": r"\${seed}", "on": True, "lr": 0.1, "of": [1, None]}) == [
        "init_seed=${seed}", "on=true", "lr=0.1", "of=[1,null]",
    ]  # fmt: skip


def test_workers_do_not_inherit_a_wandb_service():
    env = {"WANDB_SERVICE": "3-1-unix-x", "WANDB_API_KEY": "k", "SLURM_JOB_ID": "1", "HOME": "h"}
    assert plan.scrubbed(env) == {"WANDB_API_KEY": "k", "HOME": "h"}
