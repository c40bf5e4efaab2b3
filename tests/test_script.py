"""Tests of what scripts call: losses, comparisons, trainings, custom loops and black boxes."""

import ast
import copy
import doctest
import os
import re
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import component, options
from torch import nn

import sa as lab

ROOT = Path(__file__).parents[1]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.c(lab.sign(self.b(lab.sign(self.a(x)))))


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(200, 8, generator=draw), torch.randint(0, 3, (200,), generator=draw)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_importing_sa_imports_no_torch_and_lists_the_public_names():
    code = (
        "import sa, sys; assert 'torch' not in sys.modules and 'hydra' not in sys.modules; "
        "assert dir(sa) == sorted(sa.__all__); sa.NES; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", lab.__all__)
def test_every_public_name_exists_and_has_an_example(name):
    found = vars(lab).get(name) or lab.__getattr__(name)
    assert found is not None
    assert name in ("__version__", "Rule") or ">>> " in found.__doc__  # a text, an alias of a type


@pytest.mark.parametrize("room", ["estimator", "quantizer"])
def test_every_estimator_and_quantizer_class_is_public(room):
    for path in (ROOT / "sa" / room).glob("[a-z]*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.lower() == path.stem.replace("_", ""):
                assert node.name in lab.__all__, path


def test_type_checkers_see_the_names_that_are_imported_at_run_time():
    body = ast.parse((ROOT / "sa" / "__init__.py").read_text()).body
    (block,) = (n for n in body if isinstance(n, ast.If))
    read = {(f.module, a.name) for f in block.body for a in f.names}
    known = {(module, name) for name, module in lab._WHERE.items()}
    assert read == known | {("sa", "testing")}


def test_the_error_for_an_unknown_name_lists_the_public_names():
    with pytest.raises(AttributeError, match=r"sa has no 'nes'; its names are: .*NES"):
        lab.nes  # noqa: B018


@pytest.mark.parametrize("module", ["sa", *sorted(set(lab._WHERE.values()))])
def test_the_examples_of_public_modules_run(module):
    assert doctest.testmod(import_module(module)).failed == 0


# The loss


def test_the_loss_is_the_mean_over_rows_and_does_not_change_the_network(net, rows):
    before = copy.deepcopy(net.state_dict())
    loss = lab.loss(net, rows)
    plain = nn.functional.cross_entropy(
        copy.deepcopy(net).double()(rows[0].double()), rows[1]
    ).detach()
    assert float(loss.value()) == pytest.approx(float(plain), abs=1e-14)
    assert float(loss.row_losses().mean()) == pytest.approx(float(plain), abs=1e-14)
    assert all(torch.equal(p, before[k]) for k, p in net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32 and net.training


def test_tuples_lists_batches_datasets_and_loaders_of_the_same_rows_have_the_same_loss(net, rows):
    dataset = torch.utils.data.TensorDataset(*rows)
    loader = torch.utils.data.DataLoader(dataset, batch_size=64)
    several = [rows, list(rows), lab.Batch(*rows), dataset, loader]
    values = {float(lab.loss(net, data).value()) for data in several}
    assert len(values) == 1


def test_a_custom_criterion_gives_a_loss_for_each_row(net, rows):
    smoothed = lambda out, y: nn.functional.cross_entropy(  # noqa: E731
        out, y, reduction="none", label_smoothing=0.1
    )
    loss = lab.loss(net, rows, criterion=smoothed)
    got = float(loss.value())
    plain = smoothed(copy.deepcopy(net).double()(rows[0].double()), rows[1]).mean().detach()
    assert got == pytest.approx(float(plain), abs=1e-14)
    small = lab.loss(net, rows, criterion=smoothed, moving=["c.bias"])
    fast, brute = (small.differences(None, [0.1], path).grads[0] for path in ("auto", "brute"))
    assert all(torch.allclose(fast[k], brute[k], atol=1e-12) for k in brute)


def test_rows_of_a_dataset_of_sa_are_accepted(net):
    data = component("dataset", "gaussian", dim=8, n=64)
    wide = lab.loss(nn.Linear(8, 1), (data.load(torch.Generator()).train.inputs, torch.zeros(64)))
    assert wide.batch.rows == 64


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        y = self.layer(x)
        return y if y.sum() > 0 else 2 * y


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x.view(len(x), 2, 4))[0][:, -1])


@pytest.mark.parametrize("made", [Branches, Recurrent])
def test_values_of_a_network_that_vmap_cannot_run_equal_those_of_single_points(made, rows):
    torch.manual_seed(0)
    loss = lab.loss(made(), rows)
    assert not loss.forward.vectorized
    stack = {k: torch.stack([p, p + 0.1]) for k, p in loss.point.items()}
    each = [float(loss.value({k: v[i] for k, v in stack.items()})) for i in range(2)]
    assert loss.values(stack).tolist() == each


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": None}, "a network needs rows"),
        ({"data": (torch.ones(60, 8), torch.zeros(50))}, "60 inputs and 50 targets"),
        ({"data": (torch.ones(0, 8), torch.zeros(0))}, "there are no rows"),
        ({"data": "mnist"}, "data=str: expected"),
        ({"data": [torch.ones(3, 8)]}, "expected pairs"),
        ({"data": (torch.full((3, 8), torch.nan), torch.zeros(3))}, "inputs row 0"),
        ({"data": (torch.ones(3, 8), torch.tensor([0, 1, 3]))}, "the target of row 2 is 3"),
        ({"data": (torch.ones(3, 8), torch.tensor([0, -100, 1]))}, "the target of row 1 is -100"),
        ({"data": (torch.ones(3, 8), torch.zeros(3))}, "it returns (3,) a row, and a target is"),
        ({"criterion": "mse"}, "the targets are class numbers; take criterion=ce"),
        ({"criterion": "hinge"}, "expected auto, ce, mse or a function"),
        ({"criterion": nn.CrossEntropyLoss()}, "return one loss a row"),
        ({"moving": ["d.*"]}, "no parameter matches 'd.*'"),
        ({"dtype": torch.float16}, "expected torch.float64 or torch.float32"),
        ({"network": nn.Tanh()}, "it has no parameters"),
        ({"network": lambda p: 0}, "a plain function needs its point"),
    ],
)
def test_arguments_that_give_no_loss_are_refused(net, rows, change, why):
    given = {"network": net, "data": rows} | change
    with pytest.raises(ValueError) as error:
        lab.loss(**given)
    assert why in str(error.value)


# Comparisons and trainings


def test_compare_has_a_row_for_each_estimator_and_seed(net, rows):
    loss = lab.loss(net, rows)
    table = lab.compare(loss, ["ste_clipped", lab.NES(sigma=0.05, samples=20), "cdg"], seeds=3)
    assert len(table) == 9 and list(table["seed"]) == [0, 1, 2] * 3
    exact = table[table["estimator"] == "cdg"]
    assert exact["cosine"].tolist() == pytest.approx([1] * 3) and not any(exact["caution"])
    assert set(table["estimator"]) == {"ste_clipped", "nes sigma=0.05 samples=20", "cdg"}
    assert all(table[table["estimator"] != "cdg"]["caution"])
    with pytest.raises(lab.UsageError, match="there is no such estimator; did you mean"):
        lab.compare(loss, ["nees"])


def test_a_training_from_a_script_equals_a_plain_training_loop(rows):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    loss = lab.loss(plain, rows, heldout=(rows[0][:50], rows[1][:50]))
    sgd = lambda ps: torch.optim.SGD(ps, lr=0.2, momentum=0.9)  # noqa: E731
    got = list(lab.train(loss, lab.STE(), sgd, steps=5))
    optimizer = sgd(plain.parameters())
    for row in got[:-1]:
        value = nn.functional.cross_entropy(plain(rows[0].double()), rows[1])
        assert row["loss"] == pytest.approx(float(value.detach()), abs=1e-14)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for name, p in plain.named_parameters():
        assert torch.allclose(loss.point[name], p.detach(), atol=1e-14)
    assert got[-1]["train/loss"] == pytest.approx(float(loss.value()), abs=1e-14)
    assert got[-1]["test/loss"] == pytest.approx(float(loss.heldout.value()), abs=1e-14)


def test_a_training_of_a_step_network_lowers_its_loss(net, rows):
    loss = lab.loss(net, rows)
    sgd = lambda ps: torch.optim.SGD(ps, lr=0.1)  # noqa: E731
    got = list(lab.train(loss, lab.STE("clipped"), sgd, steps=100))
    assert got[0]["loss"] > got[-1]["loss"] and not any("test/" in k for k in got[-1])
    with pytest.raises(ValueError, match="batch_size=300: expected 1 to 200"):
        lab.train(loss, lab.STE(), sgd, steps=1, batch_size=300)
    with pytest.raises(ValueError, match="steps=0"):
        lab.train(loss, lab.STE(), sgd, steps=0)


# Custom loops


def noisy():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)
    )


def test_ste_in_a_plain_loop_equals_autograd_with_dropout_and_batchnorm(rows):
    x, y = rows
    plain, mine = noisy(), noisy()
    gradient = lab.Gradient(lab.STE(), mine)
    for _ in range(3):
        state = torch.get_rng_state()
        value = nn.functional.cross_entropy(plain(x), y)
        value.backward()
        after = torch.rand(3)
        torch.set_rng_state(state)
        got = gradient(lambda: nn.functional.cross_entropy(mine(x), y))
        got.backward()  # gradients accumulate as in the plain loop
        assert torch.equal(torch.rand(3), after) and torch.equal(got, value)
    for p, q in zip(plain.parameters(), mine.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    for b, c in zip(plain.buffers(), mine.buffers(), strict=True):
        assert torch.equal(b, c)


def test_nes_in_a_plain_loop_has_its_expected_cosine_and_updates_batchnorm_once(rows):
    x, y = rows
    plain, mine = noisy(), noisy()
    state = torch.get_rng_state()
    nn.functional.cross_entropy(plain(x), y).backward()
    torch.set_rng_state(state)
    before = [p.detach().clone() for p in mine.parameters()]
    gradient = lab.Gradient(lab.NES(sigma=1e-2, samples=2000), mine.float())
    gradient(lambda: nn.functional.cross_entropy(mine(x), y)).backward()
    flat = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (plain, mine)]
    dim, n = len(flat[0]), 2000
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert cosine == pytest.approx((n / (n + dim + 1)) ** 0.5, abs=0.02)
    assert all(torch.equal(p, q) for p, q in zip(mine.parameters(), before, strict=True))
    assert torch.equal(mine[1].num_batches_tracked, torch.tensor(1))
    assert torch.equal(mine[1].running_mean, plain[1].running_mean)


def test_a_scaled_loss_has_scaled_gradients(net, rows):
    one, two = copy.deepcopy(net), copy.deepcopy(net)
    for model, factor in ((one, 1.0), (two, 0.25)):
        gradient = lab.Gradient(lab.STE("clipped"), model)
        loss = gradient(lambda m=model: nn.functional.cross_entropy(m(rows[0]), rows[1]))
        (factor * loss).backward()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(0.25 * p.grad, q.grad)


def test_a_custom_loop_resumed_from_a_checkpoint_repeats_its_draws(net, rows):
    def step(gradient, model):
        gradient(lambda: nn.functional.cross_entropy(model(rows[0]), rows[1]))
        return gradient.last.grad

    whole = lab.Gradient(lab.NES(samples=3), net, seed=4)
    first, second = step(whole, net), step(whole, net)
    again = lab.Gradient(lab.NES(samples=3), net, seed=4)
    step(again, net)
    later = lab.Gradient(lab.NES(samples=3), net, seed=4)
    later.load_state_dict(again.state_dict())
    got = step(later, net)
    assert all(torch.equal(got[k], second[k]) for k in got)
    assert any(not torch.equal(got[k], first[k]) for k in got)


def test_closures_that_return_no_loss_are_refused(net, rows):
    def backward():
        loss = nn.functional.cross_entropy(net(rows[0]), rows[1])
        loss.backward()
        return loss

    for estimator in (lab.STE(), lab.NES(samples=2)):
        gradient = lab.Gradient(estimator, net)
        with pytest.raises(ValueError, match="the closure calls backward"):
            gradient(backward)
        with pytest.raises(ValueError, match=r"the closure returned shape \(200, 3\)"):
            gradient(lambda: net(rows[0]))
    for p in net.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        gradient(lambda: net(rows[0]).sum())
    with pytest.raises(ValueError, match="expected a share"):
        gradient.moment(2)


def test_a_closure_with_its_own_random_numbers_is_warned_of_once(net, rows):
    draw = np.random.default_rng(0)
    closure = lambda: nn.functional.cross_entropy(float(draw.random()) * net(rows[0]), rows[1])  # noqa: E731
    gradient = lab.Gradient(lab.STE(), net)
    with pytest.warns(UserWarning, match="two evaluations of the closure at one point differ"):
        gradient(closure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(closure)


# Black boxes


def outside(stack):
    """Return losses computed by numpy, which torch cannot differentiate."""
    a, b = stack["a"].numpy(), stack["b"].numpy()
    return np.sin(a).sum((1, 2)) + (b**2).sum(1)


POINT = {"a": torch.arange(6.0).double().view(2, 3) / 7, "b": torch.ones(3).double()}
VALUES_ALONE = set(
    "ars best_of cdg cma finite_difference mezo nes nes_auto nes_baseline nes_orthogonal nes_ranks "
    "nes_vanilla random_coordinates rdsa sges snes sphere spsa xnes".split()
)


@pytest.mark.parametrize("name", options("estimator"))
def test_ask_and_tell_equals_the_direct_call_or_is_refused(name):
    estimator = component("estimator", name)
    function = lambda p: torch.sin(p["a"]).sum() + (p["b"] ** 2).sum()  # noqa: E731
    try:
        session = lab.Session(estimator, POINT, seed=3)
    except ValueError as error:
        assert name not in VALUES_ALONE, error
        return
    with session:
        while not session.done:
            session.tell(outside(session.ask()))
    from sa.objective.function import from_function
    from sa.params import stream

    draws = stream(3, "estimator", 0)
    direct = estimator(from_function(function), POINT, estimator.init(POINT), draws)
    assert session.estimate.evals == direct.evals
    for k in POINT:
        assert torch.allclose(session.estimate.grad[k], direct.grad[k], atol=1e-12)


def test_a_session_refuses_wrong_calls_and_ends_its_thread():
    with pytest.raises(ValueError, match="STE needs a backward pass; a black box has only values"):
        lab.Session(lab.STE(), POINT)
    many = threading.active_count()
    session = lab.Session(lab.SPSA(samples=8), POINT)
    count = len(session.ask()["b"])
    with pytest.raises(ValueError, match=f"tell: 3 losses for {count} points"):
        session.tell([1, 2, 3])
    with pytest.raises(ValueError, match="losses are still wanted"):
        session.estimate  # noqa: B018
    session.close()
    assert threading.active_count() == many
    with pytest.raises(ValueError, match="no losses are wanted"):
        session.ask()


def test_losses_of_nan_give_a_gradient_of_nan():
    with lab.Session(lab.NES(samples=4), POINT) as session:
        while not session.done:
            session.tell([float("nan")] * len(session.ask()["b"]))
    assert not any(session.estimate.grad[k].isfinite().any() for k in POINT)


def test_exact_differences_of_a_custom_network_cost_fewer_than_10_evaluations(net, rows):
    loss = lab.loss(net, rows)
    fast, brute = (loss.differences(None, [0.1], path) for path in ("auto", "brute"))
    assert loss.why is None and fast.path == "fast" and fast.evals < 10 and brute.evals == 934
    for name, exact in brute.grads[0].items():
        assert torch.allclose(fast.grads[0][name], exact, atol=1e-12)
    smooth = lab.loss(nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 3)), rows)
    assert smooth.structure.why_not_a_chain == "layer '1' (GELU) is not a step"


# Sweeps

SWEEP = "dim=4 dataset.n=64 tracker=none analysis=[] figure=[]".split()


def test_a_sweep_from_a_script_is_the_typed_one_and_runs_once(sa, capfd):
    words = ["estimator=cdg,nes", *SWEEP, "sweep.name=mine"]
    before, dry = list(sys.argv), [*words, "sweep.dry_run=true"]
    table = lab.multirun(words, root="here")
    assert "2 points, 2 of 2 to do" in capfd.readouterr().out
    assert list(table["target"]) == ["box", "gaussian"] and set(table["status"]) == {"done"}
    assert list(lab.read("mine", root="here")["value"]) == list(table["value"])
    assert sys.argv == before and "HYDRA_FULL_ERROR" not in os.environ
    lab.multirun(["-m", *words, "root=here"])
    assert "2 points, 0 of 2 to do" in capfd.readouterr().out
    with pytest.raises(lab.UsageError, match="no sweep ran, so there is no table"):
        lab.multirun(dry, root="here")


def test_a_sweep_from_a_script_raises_what_a_command_would_print(sa):
    for words, why in (
        (["estimatr=cdg", *SWEEP], "estimatr"),
        (["estimator=nope", *SWEEP], "there is no such estimator"),
        (["dim=0", *SWEEP[1:]], "dim"),
        ("estimator=cdg", "expected a list of words"),
        (["root=x", *SWEEP], "given twice"),
    ):
        with pytest.raises(lab.UsageError, match=why):
            lab.multirun(words, root="here")
    assert not Path("here").exists()


def test_a_failed_run_of_a_sweep_from_a_script_is_raised_and_the_others_are_kept(sa, monkeypatch):
    from sa.estimator.cdg import CDG

    def fails(*_):
        raise ArithmeticError("for a test")

    monkeypatch.setattr(CDG, "__call__", fails)
    with pytest.raises(lab.RunFailed, match="1 of 2 points failed"):
        lab.multirun(["estimator=cdg,nes", *SWEEP, "sweep.name=mine"], root="it's here")
    assert list(lab.read("mine", root="it's here")["status"]) == ["failed", "done"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"memory": 0}, "memory=0: "), ({"batchnorm": "none"}, "batchnorm='none': "),
     ({"mode": "test"}, "mode='test': ")],
)  # fmt: skip
def test_a_setting_of_a_loss_out_of_its_range_is_refused_by_name(wrong, said):
    rows = torch.randn(4, 2), torch.zeros(4)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        lab.loss(torch.nn.Linear(2, 1), rows, **wrong)
    assert len(str(error.value).splitlines()) == 1
