"""Tests of quantizers in networks: parameters and ranges of layers, random rounding, patching."""

import copy
import math

import pytest
import torch
from conftest import component, studied
from test_quantizers import make
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sa import surrogate
from sa.dataset.gaussian import Gaussian
from sa.estimator import _slopes
from sa.estimator.rloo import RLOO
from sa.estimator.sr_ste import SRSTE
from sa.estimator.ste import STE
from sa.model.cnn import CNN
from sa.model.toy_mlp import ToyMLP
from sa.network.quantize import Rule, apply_quantizers
from sa.network.read import quantized
from sa.network.traits import for_layer
from sa.objective.prepare import prepare
from sa.params import stream
from sa.quantizer._learned import Learned
from sa.quantizer.fixed_point import FixedPoint
from sa.quantizer.levels import Levels
from sa.quantizer.lsq import LSQ
from sa.quantizer.none import Identity
from sa.quantizer.pact import Pact
from sa.quantizer.sign import Sign
from sa.quantizer.ttq import TTQ
from sa.quantizer.uniform import Uniform
from sa.training import groups, loop
from sa.types import Slots


def problem(weight=None, activation=None, gradient=None, **settings):
    slots = Slots(weight or Identity(), activation or Sign(), gradient)
    model = ToyMLP(quantizer=slots, dim=4, gain=math.sqrt(3))
    return prepare(studied(model=model, dataset=Gaussian(dim=4, n=64), **settings), 0)


def affine(**settings):
    return make("activation", "uniform", bits=3, **settings)


def grad(p, estimator, seed=0):
    f = p.objective(p.batch(0))
    return estimator(f, p.params, estimator.init(p.params), stream(seed)).grad


KEEPERS = {
    "learned": lambda **k: problem(TTQ(threshold=0.2, lr=0.5), LSQ(signed=False), **k),
    "pact": lambda **k: problem(LSQ(), Pact(start_at=1.0), **k),
    "stored": lambda **k: problem(
        make("weight", "fixed_point", train="fixed"), affine(), **k
    ),
}  # fmt: skip


def test_parameters_and_ranges_of_a_quantizer_are_named_after_its_layer():
    names = list(KEEPERS["learned"]().params)
    assert "fc2.quantize.positive" in names and "act1.quantize.s" in names
    assert not any(n.startswith(("fc1.quantize", "head.quantize")) for n in names)
    assert "act1.quantize.alpha" in KEEPERS["pact"]().params
    assert {"act1.quantize.limits", "fc2.quantize.limits"} <= set(KEEPERS["stored"]().buffers)


def test_step_sizes_of_activations_start_from_the_first_batch():
    p = problem(None, LSQ(bits=3, signed=False))
    x = p.batch(0).inputs
    for i in (1, 2, 3):
        x = x @ p.params[f"fc{i}.weight"].T
        s = p.params[f"act{i}.quantize.s"]
        torch.testing.assert_close(s, (2 * x.abs().mean() / 7**0.5).view(1))
        x = s * torch.floor((x / s).clamp(0, 7) + 0.5)


@pytest.mark.parametrize("name", list(KEEPERS))
def test_evaluating_and_differentiating_changes_no_parameter_and_no_range(name):
    p = KEEPERS[name]()
    before = {k: v.clone() for k, v in (p.params | p.buffers).items()}
    grad(p, STE())
    p.objective(p.batch(0)).differences(p.params, [0.1])
    p.evaluation.evaluate(p.params)
    assert all(torch.equal(v, before[k]) for k, v in (p.params | p.buffers).items())


def test_a_training_step_updates_running_ranges_by_their_average():
    p = KEEPERS["stored"]()
    before = {k: v.clone() for k, v in p.buffers.items()}
    p.forward.track(p.params, p.batch(0).inputs)
    same = {k: torch.allclose(v, before[k]) for k, v in p.buffers.items()}
    assert all(same.values())  # the average of a range with itself is the same range
    moved = {k: 2 * v for k, v in p.params.items()}
    p.forward.track(moved, p.batch(0).inputs)
    now = p.buffers
    x = p.batch(0).inputs @ moved["fc1.weight"].T
    law = 0.9 * before["act1.quantize.limits"] + 0.1 * affine().limits(x)
    torch.testing.assert_close(now["act1.quantize.limits"], law)
    assert not torch.equal(now["fc2.quantize.limits"], before["fc2.quantize.limits"])


@pytest.mark.parametrize("name", list(KEEPERS))
def test_a_training_resumed_from_a_checkpoint_repeats_every_row(name):
    def rows(progress=None):
        p = KEEPERS[name](batch_size=16)
        sgd = lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9)  # noqa: E731
        return loop.loop(p, STE(), sgd, {}, steps=6, progress=progress or loop.start(p))

    whole, kept = [], None
    for row, at in rows():
        whole.append(row)
        if row["step"] == 3:
            kept = copy.deepcopy(at)
    assert [r for r, _ in rows(kept)] == whole[3:]
    assert len({r["loss"] for r in whole}) > 1


def test_learned_levels_have_their_own_rate_and_weight_decay():
    p = KEEPERS["learned"]()
    rest, *own = torch.optim.SGD(
        groups.groups(p.params, groups.own(p.network)), lr=0.1, weight_decay=0.01
    ).param_groups
    assert (rest["lr"], rest["weight_decay"]) == (0.1, 0.01)
    assert sorted((g["lr"], g["weight_decay"], len(g["params"])) for g in own) == [
        (0.1, 0.0, 3), (0.5, 0.0, 4),
    ]  # fmt: skip
    assert sum(len(g["params"]) for g in [rest, *own]) == len(p.params)
    pact = KEEPERS["pact"]()
    sgd = torch.optim.SGD(
        groups.groups(pact.params, groups.own(pact.network)), lr=0.1, weight_decay=0.01
    )
    decay = {id(q): g["weight_decay"] for g in sgd.param_groups for q in g["params"]}
    assert decay[id(pact.params["act1.quantize.alpha"])] == 0.01  # the paper's L2 penalty
    assert decay[id(pact.params["fc2.quantize.s"])] == 0.0
    ours = groups.stepper(
        lambda params: torch.optim.SGD(params, lr=0.1, weight_decay=0.01),
        pact.params, groups.own(pact.network), quantizer_lr=0.5,
    )  # fmt: skip
    told = {id(q): (g["lr"], g["weight_decay"]) for g in ours.param_groups for q in g["params"]}
    assert told[id(pact.params["act1.quantize.alpha"])] == (0.05, 0.01)
    assert told[id(pact.params["fc2.quantize.s"])] == (0.05, 0.0)
    assert told[id(pact.params["fc1.weight"])] == (0.1, 0.01)
    plain = problem()
    alike = groups.groups(plain.params, groups.own(plain.network))
    assert all(a is b for a, b in zip(alike, plain.params.values(), strict=True))


def test_ranges_taken_from_the_batch_couple_its_rows_and_stored_ranges_do_not():
    auto = problem(None, affine(train="auto"))
    f = auto.objective(auto.batch(0))
    assert f.coupled and not problem(Uniform(3), affine()).objective(auto.batch(0)).coupled
    rows = f.rows(auto.params, f.batch)
    assert not torch.allclose(rows[:8], f.rows(auto.params, f.batch.part(0, 8)))
    with pytest.raises(ValueError, match="the 64 rows that Uniform normalises.*train=fixed"):
        problem(None, affine(train="auto"), memory=4000)


def test_evaluation_can_switch_a_quantizer_off():
    p = problem(None, affine(eval="none"))
    loss = float(p.objective(p.batch(0)).value(p.params))
    other = p.evaluation.evaluate(p.params)["train/loss"]
    outputs = p.batch(0).inputs
    for k in ("fc1", "fc2", "fc3", "head"):
        outputs = outputs @ p.params[f"{k}.weight"].T
    law = float((outputs - p.batch(0).targets).square().mean())
    assert other == pytest.approx(law) and loss != pytest.approx(law)


# Random quantizers draw from the generator of the estimator while it samples.


@pytest.mark.parametrize(
    "slots",
    [
        {"weight": make("weight", "binaryconnect_sto")},
        {"weight": Uniform(3, rounding="stochastic")},
        {"activation": Levels(3, "stochastic")},
    ],
    ids=["binaryconnect", "weights", "activations"],
)
def test_random_quantizers_draw_from_the_generator_of_the_estimator(slots):
    p, e = problem(**slots), SRSTE(surrogate="identity")
    one, same, other = grad(p, e), grad(p, e), grad(p, e, seed=1)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    still = [grad(p, STE(), seed=s) for s in (0, 1)]  # this estimator does not sample
    assert all(torch.equal(still[0][k], still[1][k]) for k in one)


def test_all_rows_share_the_same_random_weights_in_any_chunks():
    make_ = lambda **k: problem(make("weight", "binaryconnect_sto"), **k)  # noqa: E731
    whole, split = make_(), make_(memory=10_000)
    calls = []
    f = split.objective(split.batch(0))
    one = grad(whole, SRSTE())
    rows, f.rows = f.rows, lambda *a: calls.append(1) or rows(*a)
    other = SRSTE()(f, split.params, {}, stream(0)).grad
    assert len(calls) > 2
    for k in one:
        torch.testing.assert_close(one[k], other[k])


def test_estimators_of_units_of_rows_refuse_random_weights():
    p = problem(make("weight", "binaryconnect_sto"), make("activation", "bernoulli"))
    with pytest.raises(ValueError, match="each row samples units of its own; use estimator=sr_ste"):
        grad(p, RLOO())


def test_structure_lists_every_quantized_tensor_with_its_quantizer():
    told = problem(Uniform(4), Sign(), Uniform(8)).structure.quantized
    assert list(told) == [
        "act1.activation", "act1.gradient", "fc2.weight", "act2.activation", "act2.gradient",
        "fc3.weight", "act3.activation", "act3.gradient",
    ] and "bits=4" in told["fc2.weight"] and "bits=8" in told["act2.gradient"]  # fmt: skip
    assert problem(None, Identity()).structure.quantized == {}
    assert "LSQ(bits=4" in problem(LSQ()).structure.quantized["fc2.weight"]


def test_stored_ranges_of_gradients_are_refused():
    with pytest.raises(ValueError, match="quantizer.gradient.*train=auto"):
        problem(gradient=make("gradient", "uniform", train="fixed"))


# Patching


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(),
              nn.Linear(5, 2)]  # fmt: skip
    return nn.Sequential(*layers).double()


def test_patched_layers_compute_with_quantized_weights_and_outputs(generator):
    x = torch.randn(7, 1, 4, 4, generator=generator, dtype=torch.float64)
    plain = network()
    rules = [
        Rule("*", weight=Uniform(4)), Rule("0", weight=Uniform(8)),
        Rule("4", activation=Levels(4), gradient=Uniform(2)),
    ]  # fmt: skip
    with pytest.warns(UserWarning, match=r"in full precision: 5 \(last linear layer\)"):
        patched = apply_quantizers(network(), rules)
    h = torch.relu(torch.conv2d(x, Uniform(8)(plain[0].weight), plain[0].bias)).flatten(1)
    h = Levels(4)(torch.relu(h @ Uniform(4)(plain[3].weight).T + plain[3].bias))
    torch.testing.assert_close(patched(x), plain[5](h))
    with surrogate.backward(_slopes.rule("identity")):
        patched(x).square().sum().backward()
    assert patched[3].parametrizations.weight.original.grad.any()
    moved = {k: 2 * v.detach() for k, v in patched.named_parameters()}
    assert not torch.allclose(functional_call(patched, moved, (x,)), patched(x))


def test_each_patched_layer_learns_its_own_step_size():
    patched = apply_quantizers(network(), [Rule(k, weight=LSQ(4)) for k in "35"])
    names = [k for k, _ in patched.named_parameters()]
    assert "3.parametrizations.weight.0.quantize.s" in names and len(names) == 8


def test_patterns_leave_first_last_and_1x1_layers_in_full_precision():
    convs = [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 3, 1), nn.Conv1d(3, 3, 1)]
    layers = [*convs, nn.Linear(3, 4), nn.Linear(4, 2)]
    rules = [Rule("*", weight=Uniform(4)), Rule("2", weight=Uniform(8))]
    said = r"3 \(1x1 convolution\), 5 \(last linear layer\), 0 \(first convolution\)"
    with pytest.warns(UserWarning, match=said):
        patched = apply_quantizers(nn.Sequential(*layers), rules)
    bits = [m.parametrizations.weight[0].quantize.bits if parametrize.is_parametrized(m) else None
            for m in patched]  # fmt: skip
    assert bits == [None, 4, 8, None, 4, None]


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="'conv.*'; there are: 0, 3, 5"):
        apply_quantizers(network(), [Rule("conv*", weight=Uniform(4))])
    with pytest.raises(ValueError, match="'act.*'; there are: 0, 1, 2, 3, 4, 5"):
        apply_quantizers(network(), [Rule("act*", activation=Sign())])


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_presets_keep_the_first_and_last_layer_in_full_precision(name):
    slots = {
        "_target_": "sa.types.Slots",
        "weight": {"_target_": "sa.quantizer.fixed_point.FixedPoint"},
        "activation": {"_target_": "sa.quantizer.sign.Sign"},
    }
    told = quantized(component("model", name, quantizer=slots).build(stream(0)))
    weights = [k for k in told if k.endswith(".weight")]
    assert weights == (["fc2.weight"] if name == "mlp" else ["conv2.weight"])


def folded(powers=False):
    """Return a network of two convolutions with BatchNorm, and the folded kernels and biases.

    Args:
        powers: whether the factors of BatchNorm are powers of two.
    """
    g = torch.Generator().manual_seed(0)
    slots = Slots(Identity(), Levels(4))
    network = CNN(quantizer=slots, shape=(1, 8, 8), channels=(4, 8)).build(g).eval()
    kernels = []
    for i in (1, 2):
        norm, conv = network.get_submodule(f"norm{i}"), network.get_submodule(f"conv{i}")
        draw = [torch.randn(norm.num_features, generator=g).double() for _ in range(3)]
        norm.running_mean.copy_(draw[0]), norm.bias.data.copy_(draw[1])
        norm.running_var.copy_((3 * draw[2]).exp())
        norm.weight.data.uniform_(-2, 2, generator=g)
        if powers:
            norm.weight.data.copy_((norm.running_var + norm.eps).sqrt() * 2.0 ** draw[2].round())
        of = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        kernels.append(fuse_conv_bn_weights(conv.weight, conv.bias, *of))
    return network, kernels


def test_folding_batchnorm_into_a_convolution_does_not_change_the_output():
    """Average pooling is linear and keeps constants, so the folded bias can come before it."""
    network, kernels = folded()
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x
    for w, b in kernels:
        y = Levels(4)(nn.functional.avg_pool2d(nn.functional.conv2d(y, w, b, padding=1), 2))
    out = network.head(y.flatten(1))
    torch.testing.assert_close(out, network(x), rtol=1e-12, atol=1e-12)


def test_quantizing_after_folding_needs_a_range_for_each_channel():
    """Folding spreads the scales of the channels too far for one range of the tensor."""
    network, kernels = folded()
    w = kernels[1][0]

    def median_error(x, granularity):
        """Return the median over channels of the relative error."""
        q = FixedPoint(bits=4, granularity=granularity)(x)
        return ((q - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).median()

    plain = network.conv2.weight
    assert median_error(plain, "tensor") < 1.5 * median_error(plain, "channel") < 0.25
    assert median_error(w, "tensor") > 3 * median_error(w, "channel")
    assert median_error(w, "channel") < 0.25


def test_folding_by_powers_of_2_commutes_with_fixed_point_of_each_channel():
    network, kernels = folded(powers=True)
    q = FixedPoint(bits=4, granularity="channel")
    factor = kernels[1][0].flatten(1)[:, 0] / network.conv2.weight.flatten(1)[:, 0]
    before = q(network.conv2.weight) * factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(q(kernels[1][0]), before, rtol=1e-9, atol=1e-12)


# A layer that starts at 0 can still learn.


STUCK = {
    "lsq weights": {"weight": LSQ()},
    "lsq activations": {"activation": LSQ(signed=False)},
    "ttq": {"weight": TTQ()},
    "xnor": {"weight": make("weight", "xnor")},
    "a range that never changes": {
        "activation": make("activation", "uniform", train="fixed", ema=1.0)
    },
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", list(STUCK))
def test_a_layer_that_starts_at_0_learns_and_notes_while_it_is_the_identity(
    name, dtype, monkeypatch
):
    build = ToyMLP.build

    def zero(self, generator):
        network = build(self, generator)
        if generator.initial_seed() == stream(0, "init").initial_seed():
            with torch.no_grad():
                network.fc2.weight.zero_()
                q = network.fc2.quantize
                if isinstance(q, Learned):
                    network.fc2.quantize = for_layer(q.spec, network.fc2.weight)
        return network

    monkeypatch.setattr(ToyMLP, "build", zero)
    p = problem(**{"activation": Identity(), "dtype": dtype, **STUCK[name]})
    sgd = lambda params: torch.optim.SGD(params, lr=0.1)  # noqa: E731
    rows = [r for r, _ in loop.loop(p, STE(), sgd, {}, steps=60, progress=loop.start(p))]
    losses = [r["loss"] for r in rows]
    assert all(math.isfinite(x) for x in losses)
    assert losses[-1] < 0.998 * losses[0] and len(set(losses[-5:])) > 1
    if name not in ("ttq", "xnor"):  # the levels of these two can leave 0 by themselves
        assert "identity" in rows[0]["quantizer/note"]
    assert not p.forward.asleep() and not rows[-1].get("quantizer/note")


def test_a_group_of_zeros_starts_with_the_widest_range_of_the_others():
    w = torch.randn(3, 8, generator=stream(0), dtype=torch.float64)
    w[1] = 0
    for spec in (
        make("weight", "uniform", granularity="channel", train="fixed", ema=1.0),
        make("weight", "fixed_point", granularity="channel", train="fixed", ema=1.0, range="max"),
    ):
        q, law = spec.build(w), spec.limits(w)
        q.observing = True
        q(w)
        torch.testing.assert_close(q.limits[:, [0, 2]], law[:, [0, 2]])
        assert torch.equal(q.limits[:, 1].abs(), law.abs().amax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", [LSQ(), LSQ(8, signed=False), Pact(), Pact(32)], ids=repr)
@pytest.mark.parametrize("at", [0.0, -0.0, 1e-40, -1e-30])
def test_a_scale_at_its_smallest_value_has_a_finite_gradient_away_from_it(spec, at, dtype):
    q = spec.build(None).to(dtype)
    (scale,) = q.parameters()
    scale.data.fill_(at)
    x = torch.tensor([[0.0, 1.0, 100.0]], dtype=dtype, requires_grad=True)
    with surrogate.backward(_slopes.rule("identity")):
        out = q(x)
        out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert bool(scale.grad.isfinite()) and float(scale.grad) * (-1 if scale.data < 0 else 1) > 0
