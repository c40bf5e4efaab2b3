"""A training that stops improving ends, at the same step also if it was killed on the way."""

import json
import os

import pytest
from commands import folder, result
from conftest import killed

from sa.record import run as record
from sa.training.plateau import Plateau


def ends(scores, of="test/loss", **settings):
    """Return the index of the evaluation that ends a training with these scores, or None."""
    rule, state = Plateau(of=of, **settings), {}
    for at, score in enumerate(scores):
        state = rule.look(state, {of: score})
        if rule.reached(state):
            return at
    return None


@pytest.mark.parametrize(("scores", "least", "at"), [
    ([5, 4, 3, 2, 1], 0.1, None),
    ([5, 5, 5, 5], 0.1, 2),                        # two evaluations after the first
    ([5, 4, 4, 3, 3, 3, 1], 0.1, 5),               # an improvement restarts the count
    ([1, 0.99, 0.98, 0.97], 0.1, 2),               # less than a tenth of the best does not count
    ([1, 0.96, 0.89, 0.85, 0.8, 0.78], 0.1, None), # small ones add up: 0.89 < 0.9, 0.8 < 0.801
    ([1, 0.9999, 0.9998], 0, None),                # least 0: any improvement counts
    ([1, 1, 1], 0, 2),
    ([-1, -1.2, -1.21, -1.22], 0.1, 3),            # relative to the size of a negative loss
    ([float("nan"), 3, 3, 3], 0.1, 3),
    ([3, float("nan"), float("nan")], 0.1, 2),
])  # fmt: skip
def test_a_plateau_is_patience_evaluations_in_a_row_without_improvement(scores, least, at):
    assert ends(scores, patience=2, least=least) == at
    assert ends([-s for s in scores], "train/accuracy", patience=2, least=least) == at


WORDS = ["dataset=digits", "model=mlp", "model.hidden=[8]", "estimator=ste", "batch_size=64"]
WORDS += ["analysis=[]", "tracker=none", "optimizer.lr=0.5", "steps=3000", "evaluate_every=10"]
GOAL = "until={plateau:{of:test/loss,patience:4,least:0.02}}"


def test_a_training_ends_on_its_plateau_and_records_the_reason(sa):
    code, out, err = sa(*WORDS, GOAL)
    assert code == 0, err
    got = result(out)
    assert got["stopped"].startswith("plateau: test/loss at ") and got["step"] < 3000
    assert "for 4 evaluations" in got["stopped"] and got["stopped"] in out
    rows = record.read_rows(folder(out))
    scores = [row["test/loss"] for row in rows if "test/loss" in row]
    assert ends(scores, patience=4, least=0.02) == len(scores) - 1
    assert float(got["stopped"].split()[3]) == pytest.approx(min(scores[:-4]), rel=0.05)
    # the first goal that is met ends the training
    both = "until={train/loss:2,plateau:{of:test/loss,patience:4,least:0.02}}"
    assert result(sa(*WORDS, both)[1])["stopped"] == "train/loss <= 2"


def test_a_killed_and_repeated_training_ends_on_the_same_plateau(sa, tmp_path):
    calm = folder(sa(*WORDS, GOAL, "root=calm")[1])
    last = json.loads((calm / "result.json").read_text())["step"]
    env = os.environ | {"SA_ROOT": str(tmp_path / "killed")}
    killed([*WORDS, GOAL], env, at=last - 5, saved=last - 15)  # the third evaluation in a row
    code, out, _ = sa(*WORDS, GOAL, f"root={tmp_path / 'killed'}")
    assert code == 0 and f"going on from step {last - 15}" in out
    assert (folder(out) / "metrics.jsonl").read_bytes() == (calm / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("goal", "told"), [
    ("{plateau:{of:loss,patience:4,least:0.1}}", "'loss' is no goal; expected train/loss"),
    ("{plateau:{of:test/loss,patience:0,least:0.1}}", "until.plateau.patience=0: "),
    ("{plateau:{of:test/loss,patience:4,least:-1}}", "until.plateau.least=-1: "),
    ("{plateau:{of:test/loss,patience:4}}", "until.plateau.least"),
    ("{plateau:{of:test/loss,patience:4,least:0,most:1}}", "until.plateau.most: no such setting"),
    ("{plateau:4}", "until.plateau=4.0: expected {of: test/loss"),
    ("{plateau:{of:ema/test/loss,patience:4,least:0}}", "ema/ needs averaged weights"),
    ("{train/loss:{of:test/loss}}", "until.train/loss={of:test/loss}: "),
])  # fmt: skip
def test_an_invalid_plateau_is_refused(sa, goal, told):
    code, _, err = sa(*WORDS, f"until={goal}")
    assert code == 2 and told in err, err
    assert "Recipe" not in err and "Plateau" not in err


def test_a_plateau_needs_evaluations_and_of_accuracy_needs_classes(sa):
    code, _, err = sa(*WORDS[:-1], GOAL)
    assert code == 2 and "evaluate_every" in err
    code, _, err = sa("steps=9", "evaluate_every=1", GOAL.replace("loss", "accuracy"))
    assert code == 2 and "accuracies need classes" in err
