"""A UsageError that is raised inside comes out unchanged, also where ValueErrors get a prefix."""

import pytest
import torch
from commands import SMALL

from sa.analysis.alignment import Alignment
from sa.config.error import NoData, UsageError, of_setting
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.network.ruled import Ruled
from sa.objective.task import Task

MINE = "mine: this is the whole message"
RULES = ["quantizer=fp", "+rules.w.match=fc*", "+quantizer/weight@rules.w.weight=xnor"]
FRESH = ["estimator=nes", "dataset=gaussian", "dataset.fresh=true", "steps=2"]


def raising(error, when=lambda *args: True):
    def method(self, *args, **settings):
        if when(*args):
            raise error(MINE)

    return method


WRAPPERS = {
    "rules, which build the network": (Ruled, "build", RULES, "rules"),
    "the checks of a task": (Task, "check", [], "model"),
    "the estimator": (NES, "requires", ["estimator=nes"], "estimator"),
    "the analysis": (Alignment, "requires", ["analysis=[alignment]"], "analysis.alignment"),
    "an estimator inside of an analysis": (
        CDG, "requires", ["analysis=[alignment]", "estimator=nes"],
        "analysis.alignment: references.eps0.1",
    ),
    "the optimizer": (torch.optim.Adam, "__init__", ["optimizer=adam"], "optimizer"),
}  # fmt: skip


@pytest.mark.parametrize("error", [UsageError, ValueError])
@pytest.mark.parametrize("where", WRAPPERS)
def test_a_usage_error_comes_out_as_it_is_and_another_value_error_names_the_setting(
    sa, monkeypatch, where, error
):
    cls, method, words, prefix = WRAPPERS[where]
    monkeypatch.setattr(cls, method, raising(error), raising=False)
    code, _, err = sa(*SMALL, *words, "sweep.dry_run=true")
    assert code == 2
    told = MINE if error is UsageError else f"{prefix}: {MINE}"
    assert err.startswith(f"sa: {told}"), err


@pytest.mark.parametrize("error", [UsageError, ValueError])
def test_only_a_value_error_about_fresh_rows_names_the_setting_that_makes_them(
    sa, monkeypatch, error
):
    minibatches = raising(error, lambda steps, optimizer, settings, rows: rows is not None)
    monkeypatch.setattr(NES, "trains", minibatches, raising=False)
    code, _, err = sa(*SMALL, *FRESH, "sweep.dry_run=true")
    assert code == 2
    assert ("dataset.fresh=true also takes other rows" in err) == (error is ValueError)
    assert err.startswith(f"sa: {MINE}") == (error is UsageError)


@pytest.mark.parametrize("error", [UsageError, NoData])
def test_the_same_usage_error_passes_the_wrapper_and_is_a_value_error(error):
    given = error(MINE)
    with pytest.raises(ValueError) as caught, of_setting("dim"):
        raise given
    assert caught.value is given
