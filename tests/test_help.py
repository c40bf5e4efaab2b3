"""The pages of --help: a short first page, and below it a page for every group and setting."""

import importlib
import inspect
import subprocess
import sys

import pytest
import yaml

from sa.config import describe, fields, flags, handbook, settings
from sa.config.catalogue import CONF, GROUPS, commented, options
from sa.config.error import UsageError

HEAVY = ("torch", "hydra", "omegaconf", "wandb", "pandas", "seaborn", "numpy", "pydantic")
LAUNCHERS = ["sa.launch.here.Local", "sa.launch.slurm.Slurm"]
OPTIONS = [(g, o) for g in GROUPS if g != "experiment" for o in options(g)]


def keys(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_"):
            yield f"{prefix}{key}"


def targets(node):
    """Return every class of sa that a file of conf/ names."""
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from targets(inner)


def components():
    named = {"sa.training.loop.Recipe", *LAUNCHERS}
    for path in CONF.rglob("*.yaml"):
        named |= set(targets(yaml.safe_load(path.read_text())))
    return sorted(x for x in named if x.startswith("sa."))


def test_the_first_help_page_is_short_and_imports_no_heavy_library():
    words = [sys.executable, "-X", "importtime", "-m", "sa.run", "--help"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd="/")
    assert told.returncode == 0
    assert len(told.stdout.splitlines()) < 60
    assert max(map(len, told.stdout.splitlines())) <= 100
    for group in GROUPS:
        assert f"  {group} " in told.stdout
    for key in keys(yaml.safe_load((CONF / "config.yaml").read_text()) | {"hydra": {}}):
        if key != "defaults":
            assert key in told.stdout
    loaded = {line.split("|")[-1].strip() for line in told.stderr.splitlines()}
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("group", GROUPS)
def test_help_on_a_group_lists_its_options(group):
    page = handbook.help_page([group])
    for option, about in options(group).items():
        assert f"  {option} " in page and about in page


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=map("=".join, OPTIONS))
def test_help_on_an_option_names_each_of_its_settings(group, name):
    page = handbook.help_page([f"{group}={name}"])
    node = yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}
    node.pop("defaults", None)
    for key in keys(node):
        assert f"  {group.replace('/', '.')}.{key}=" in page


@pytest.mark.parametrize("target", components())
def test_every_component_documents_exactly_the_settings_it_has(target):
    module, _, name = target.rpartition(".")
    cls = vars(importlib.import_module(module))[name]
    there = fields.fields(cls)
    assert [f.name for f in there if not f.meaning] == []
    assert set(fields.entries(inspect.getdoc(cls))) <= {f.name for f in there}
    assert not [f for f in there if f.kind in ("a value", "anything", "")]


def test_an_entry_under_args_may_have_several_lines():
    text = "Does it.\n\nArgs:\n    a: one\n        two.\n    b (int): ``x``: y (default: 3)\n\nEnd."
    assert fields.entries(text) == {"a": "one two.", "b": "x: y"}
    assert fields.prose(text) == "Does it.\n\nEnd."
    assert fields.entries("No settings.") == {}


def test_settings_of_an_estimator_have_a_type_a_range_and_a_default():
    page = handbook.help_page(["estimator=nes"])
    for told in ("estimator.samples=500", "a whole number >= 1", "none | loss | mean"):
        assert told in page


@pytest.mark.parametrize("name", options("experiment"))
def test_help_on_a_study_names_what_it_sweeps_and_expects(name):
    page = handbook.help_page([f"experiment={name}"])
    node = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    assert node["description"] in page
    for key in node.get("sizes", {}).get("quick", {}):
        assert f"  {key}=" in page or key in page.split()
    assert max(map(len, page.splitlines())) < 400, "one line a point"
    for one in node.get("figure") or []:
        if isinstance(one, str):
            assert one in page
        else:
            hued = one["kind"] != "lines"
            assert (f"{one['kind']} by {one['hue']}" if hued else f"against {one['x']}") in page
    for one in node.get("expectations", []):
        assert f"  {one['id']}: " in page and one["source"] in page


def test_help_on_a_study_that_has_run_gives_its_duration(tmp_path, monkeypatch):
    from sa.record import run, sweep

    monkeypatch.setenv("SA_ROOT", str(tmp_path))
    page = handbook.help_page(["experiment=descent_dims"])
    assert "it has not run in this folder" in page
    points = [{"index": i, "run_id": f"{i:010x}", "overrides": []} for i in range(3)]
    sweep.write_manifest(tmp_path, "descent_dims", points, {})
    results = {"0000000000": {"seconds": 3.0}, "0000000001": {"seconds": 4.0}}
    monkeypatch.setattr(run, "read_result", lambda root, key: results.get(key))
    page = handbook.help_page(["experiment=descent_dims"])
    assert "2 of 3 points are done here, in 7 s of computing" in page


@pytest.mark.parametrize(("word", "told"), [
    ("batch_size", "rows a step; null = the full batch"),
    ("sweep.canary", "run one point first"),
    ("estimator.sigma", "estimator=nes --help"),
    ("quantizer.weight.bits", "quantizer/weight=uniform --help"),
    ("nes", "estimator=nes: "),
    ("settings", "checkpoint_seconds=5"),
    ("analysis=[alignment,descent]", "analysis.descent.points=25"),
])  # fmt: skip
def test_help_explains_any_group_option_setting_or_experiment(word, told):
    assert told in handbook.help_page([word])


@pytest.mark.parametrize(("word", "told"), [
    ("estimator=nse", "did you mean estimator=nes?"),
    ("estimtor", "did you mean --help estimator?"),
    ("experiment=nope", "there are: "),
])  # fmt: skip
def test_a_word_that_names_nothing_is_refused(word, told):
    with pytest.raises(UsageError, match="there is no such") as error:
        handbook.help_page([word])
    assert told in str(error.value)


def test_help_may_be_typed_before_or_after_a_word():
    for words in (["--help", "dim"], ["dim", "-h"], ["--help=dim"], ["-m", "dim", "--help"]):
        assert flags.help_words(words) == ["dim"]
    assert flags.help_words(["dim=3"]) is None
    with pytest.raises(UsageError, match="did you mean"):
        flags.help_words(["--help", "--catalouge"])


def test_a_default_is_shown_as_it_is_typed():
    shown = describe.shown
    assert shown([1, "${dim}", None]) == "[1,<dim>,null]"
    assert shown("${oc.select:optimizer.lr,null}") == "<optimizer.lr>"
    assert shown({"_target_": "sa.estimator.cdg.CDG"}) == "cdg"
    assert shown({"_target_": "torch.optim.SGD"}) == "sgd"


def test_the_meanings_of_settings_equal_the_comments_in_config_yaml():
    told = settings.explained()
    for key, (_, comment) in commented().items():
        assert told[key][1] == comment, key
    assert set(commented()) == set(told) - {"sweep", "experiment"}


def test_the_defaults_of_settings_equal_those_in_config_yaml():
    file = yaml.safe_load((CONF / "config.yaml").read_text())
    there = {k: v for k, v in file.items() if k not in ("defaults", "hydra", "root")}
    assert settings.read(there) == settings.read({})


@pytest.mark.parametrize(("config", "told"), [
    ({"dim": True}, "dim=true: expected a whole number >= 1"),
    ({"seed": 0.5}, "seed=0.5: expected a whole number >= 0"),
    ({"clip": -1}, "clip=-1: expected a number greater than 0, or null"),
    ({"checkpoint_seconds": "a"}, "checkpoint_seconds=a: expected a number >= 0"),
    ({"diverge": float("nan")}, "diverge=nan: expected a number greater than 1, or null"),
    ({"moving": []}, "moving=[]: expected all, or a list of name patterns"),
    ({"sweep": {"zip": "dim"}}, "sweep.zip=dim: expected a list, e.g. 'sweep.zip=[...]'"),
    ({"sweep": {"wait": None}}, "sweep.wait=null: expected true or false"),
    ({"figure": ["pie"]}, "figure=pie: there is no such figure; there are: "),
    (
        {"figure": ["ranges"]},
        "figure=ranges: it is drawn by kind: lines now; see figure in conf/experiment/fixed_point",
    ),
    ({"dimm": 3}, "dimm: there is no such setting; did you mean dim?"),
])  # fmt: skip
def test_a_setting_out_of_its_range_is_refused_with_what_is_expected(config, told):
    with pytest.raises(UsageError) as error:
        settings.read(config)
    assert str(error.value).startswith(told)


def test_an_older_record_may_lack_a_setting_or_have_null_for_false():
    assert settings.read({"recalibrate": None, "compile": None}) == settings.read({})
