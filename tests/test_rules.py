"""Rules of a configuration: quantizers by layer, in runs, sweeps and ids."""

import json

import pytest

from tests.commands import folder, sa  # noqa: F401

BASE = [
    "dataset=digits", "model=mlp", "model.hidden=[8,8]", "analysis=[]", "estimator=ste", "steps=2",
    "tracker=none",
]  # fmt: skip
WEIGHTS = ["+quantizer/weight@rules.w.weight=uniform", "rules.w.weight.bits=4"]


def rows(out):
    """Return the rows of the run that a command names, without the seconds."""
    lines = (folder(out) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if "second" not in k} for x in lines]


def test_rules_equal_to_a_models_own_quantizers_give_the_same_numbers(sa):  # noqa: F811
    own = ["quantizer=fp", "quantizer/weight=xnor", "quantizer/activation=sign"]
    code, out, err = sa(*BASE, *own)
    assert not code, err
    law = rows(out)
    rules = [
        "quantizer=fp", "+rules.w.match=fc2", "+quantizer/weight@rules.w.weight=xnor",
        "+rules.a.match=act*", "+quantizer/activation@rules.a.activation=sign",
    ]  # fmt: skip
    code, out, err = sa(*BASE, *rules)
    assert not code, err
    assert rows(out) == law
    assert "fc2.weight: Xnor" in out and "act1.activation, act2.activation: Sign" in out


def test_an_id_depends_on_the_layers_that_rules_reach_and_not_on_their_names(sa):  # noqa: F811
    found = {}
    for match in ("w.match=fc*", "w.match=[fc2,fc1]", "other.match=fc*", "w.match=fc2"):
        name = match.partition(".")[0]
        words = [w.replace("rules.w.", f"rules.{name}.") for w in WEIGHTS]
        code, out, err = sa(*BASE, "quantizer=fp", f"+rules.{match}", *words)
        assert not code, err
        found[match] = folder(out).name
    assert len(set(list(found.values())[:3])) == 1 and found["w.match=fc2"] != found["w.match=fc*"]
    code, out, _ = sa(*BASE, "quantizer=fp")
    assert folder(out).name not in found.values()


def test_bits_of_a_rule_are_swept(sa):  # noqa: F811
    words = [*BASE, "quantizer=fp", "+rules.w.match=fc2", WEIGHTS[0], "rules.w.weight.bits=2,3,4"]
    code, out, err = sa("-m", *words, "sweep.dry_run=true")
    assert not code, err
    assert "3 points" in out and "rules.w.weight.bits=2" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+rules.w.match=conv*", *WEIGHTS], "matches 'conv*'; there are: fc1, fc2, head"),
        (WEIGHTS, "rules.w.match=null: expected a name pattern"),
        (["+rules.w.match=fc*"], "rules.w: it quantizes nothing"),
        (["+rules.w=3"], "rules.w=3: expected match and slots"),
        (["+rules.w.match=fc*", "+rules.w.wieght=1", *WEIGHTS], "rules.w.wieght: there is no such"),
        (
            ["+rules.w.match=fc*", "+rules.v.match=fc1*", *WEIGHTS,
             "+quantizer/weight@rules.v.weight=sign"],
            "rules 'fc*' and 'fc1*' are both for the weights of 'fc1.weight'",
        ),
        (
            ["quantizer=bwba", "+rules.w.match=fc2", *WEIGHTS],
            "layer 'fc2' is quantized already",
        ),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_are_refused_before_any_work(sa, tmp_path, words, said):  # noqa: F811
    given = [] if any(w.startswith("quantizer=") for w in words) else ["quantizer=fp"]
    code, _, err = sa(*BASE, *given, *words)
    assert code and said in err
    assert not (tmp_path / "runs").exists()
