"""Networks of your own classes, from the command line: model=module."""

import json
import sys
from pathlib import Path

import own_nets
import pytest
import torch
from commands import folder

from sa.config.trust import VARIABLE, installed
from sa.model.module import Module
from sa.params import stream

OWN = ["model=module", "dataset=digits", "analysis=[]", "tracker=none", "estimator=ste"]


@pytest.fixture
def trusting(monkeypatch):
    """Trust the module `own_nets` of these tests."""
    monkeypatch.setenv(VARIABLE, "own_nets")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    installed.cache_clear()


def test_an_own_network_is_trained_and_recorded(sa, trusting):
    code, out, err = sa(*OWN, "model.target=own_nets.CNN", "+model.args.width=3", "steps=3")
    assert code == 0, err
    meta = json.loads((folder(out) / "meta.json").read_text())
    assert meta["packages"]["own_nets"]["version"] == VARIABLE
    assert "parameters" in out and (folder(out) / "result.json").exists()


def test_the_start_of_an_own_network_depends_on_the_seed_alone():
    made = Module("own_nets.CNN", shape=(1, 8, 8))
    torch.manual_seed(0)
    first = made.build(stream(1, "init"))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second, other = made.build(stream(1, "init")), made.build(stream(2, "init"))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert first.conv1.weight.dtype == torch.float64 and made.outputs == 10


def test_exact_differences_of_an_own_network_of_signs_are_fast(sa, trusting):
    code, out, err = sa(*OWN, "model.target=own_nets.Signs", "estimator=cdg", "batchnorm=running")
    assert code == 0, err
    evals = next(line for line in out.splitlines() if line.startswith("evals"))
    assert float(evals.split()[1]) < 20


def test_dropout_of_an_own_network_draws_in_training_mode_and_resumes(sa, trusting):
    words = [*OWN, "model.target=own_nets.CNN", "+model.args.width=2", "steps=4"]
    losses = {}
    for mode in ("eval", "train"):
        code, out, err = sa(*words, f"mode={mode}")
        assert code == 0, err
        rows = (folder(out) / "metrics.jsonl").read_text().splitlines()
        losses[mode] = [json.loads(x)["loss"] for x in rows]
    assert losses["eval"][0] != losses["train"][0]
    code, out, _ = sa(*words)
    assert folder(out).name  # mode=eval is no part of the id
    assert [json.loads(x)["loss"] for x in (folder(out) / "metrics.jsonl").read_text().splitlines()
            ] == losses["eval"]  # fmt: skip


def test_rules_quantize_an_own_network(sa, trusting):
    words = [*OWN, "model.target=own_nets.CNN", "+model.args.width=2", "+rules.w.match=*"]
    words += ["+quantizer/weight@rules.w.weight=uniform", "rules.w.weight.bits=4", "steps=2"]
    code, out, err = sa(*words)
    assert code == 0, err
    assert (
        "conv2" in out and "fc" in out and "conv1" not in out.split("quantized")[1].split("\n")[0]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "type model.target=PACKAGE.FILE.CLASS"),
        (["model.target=own_nets.Several"], "returned (2, 8, 5) for 2 rows; expected (rows, outp"),
        (["model.target=own_nets.CNN", "+model.args.wdith=2"], "unexpected keyword argument"),
        (["model.target=own_nets.CNN", "model.outputs=3"], "outputs=3: the network has 10"),
        (["model.target=own_nets.Nothing"], "there is no such class"),
        (["model.target=own_nets.torch.nn.Linear"], "there is no such class"),
        (["model.target=own_nets.OrderedDict"], "name a class by the file that defines it"),
        (["model.target=os.system"], "model.target=os.system: refused"),
        (["model.target=own_nets.Flat", "mode=train", "replicas=2", "steps=2"], "replicas: "),
        (
            ["model.target=own_nets.Rows", "replicas=2", "steps=2"],
            "replicas: torch.vmap cannot run",
        ),
    ],
)
def test_an_own_network_that_does_not_fit_is_refused_before_any_work(sa, trusting, words, said):
    code, _, err = sa(*OWN, *words)
    assert code and said in err, err
    assert not Path("runs").exists()


def test_an_untrusted_network_is_not_even_imported(sa, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    code, _, err = sa(*OWN, "model.target=own_nets.CNN")
    assert code and "'own_nets' is not trusted" in err and "own_nets" not in sys.modules
    sys.modules["own_nets"] = own_nets


def test_a_network_with_rules_starts_from_the_weights_of_its_training_without_them(sa, trusting):
    words = [*OWN, "model.target=own_nets.CNN", "+model.args.width=2", "optimizer.lr=0.05"]
    rule = ["+rules.w.match=conv2", "+quantizer/weight@rules.w.weight=uniform"]
    rule += ["rules.w.weight.bits=8", "init=ste_100", "+init.rules={}", "init.steps=3"]
    code, out, err = sa(*words, *rule)
    assert code == 0, err
    parent = next(p for p in Path("runs").iterdir() if p.name != folder(out).name)
    end = json.loads((parent / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    value = json.loads((folder(out) / "result.json").read_text())["value"]
    assert value == pytest.approx(end, rel=1e-2) and value != end


@pytest.mark.parametrize("target", ["Rows", "CNN", "Signs"])
def test_every_way_to_evaluate_points_works_on_an_own_network(sa, trusting, target):
    words = [*OWN[:-1], f"model.target=own_nets.{target}", "mode=eval"]
    for estimator in ("nes estimator.samples=3", "random_coordinates", "forward_gradient"):
        code, _, err = sa(*words, *f"estimator={estimator}".split(), "batchnorm=running")
        assert code == 0, err
