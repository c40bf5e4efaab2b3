"""Modules as they really are: training mode, and rules that reach every weight."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import sa
from sa.network.patch import unpatched
from sa.network.traits import component
from sa.quantizer.levels import Levels
from sa.quantizer.lsq import LSQ
from sa.quantizer.pact import Pact
from sa.quantizer.sign import Sign
from sa.quantizer.uniform import Uniform

X, Y = torch.randn(24, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)


def mlp(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), *layers, nn.Linear(16, 3))


class Fork(nn.Module):
    """Two layers whose forward calls the second one first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.late, self.early = nn.Conv1d(4, 4, 3), nn.Conv1d(1, 4, 3)
        self.out, self.head = nn.Linear(8, 3), nn.Linear(16, 8)

    def forward(self, x):
        return self.out(torch.relu(self.head(self.late(self.early(x[:, None])).flatten(1))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.out = nn.LSTM(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.lstm(x.view(-1, 4, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = x.view(-1, 2, 4)
        return self.out(self.mix(x, x, x, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))[:, :3]


# Training mode.


@pytest.mark.parametrize("layers", [[nn.Dropout(0.5)], [nn.RReLU()], [nn.Dropout(0.5), nn.Tanh()]])
def test_layers_draw_in_training_mode_and_all_points_share_the_draws(layers):
    loss = sa.loss(mlp(*layers), (X, Y), mode="train")
    assert float(loss.value()) == float(loss.value())
    assert float(loss.value()) != float(sa.loss(mlp(*layers), (X, Y)).value())
    _, grad = loss.value_and_grad()
    found = loss.differences(None, [1e-6]).grads[0]
    for name, g in grad.items():
        torch.testing.assert_close(found[name], g, rtol=1e-6, atol=1e-8)


def test_draws_do_not_depend_on_memory_stacks_or_directions():
    network = mlp(nn.Dropout(0.5), nn.Tanh())
    loss = sa.loss(network, (X, Y), mode="train")
    other = sa.loss(network, (X, Y), mode="train", memory=5000, vectorized=False)
    stack = {k: torch.stack([p, p + 0.1]) for k, p in loss.point.items()}
    assert loss.forward.vectorized
    torch.testing.assert_close(loss.values(stack), other.values(stack), rtol=1e-14, atol=0)
    _, grad = loss.value_and_grad()
    ones = {k: torch.ones_like(p)[None] for k, p in loss.point.items()}
    along = sum(float(g.sum()) for g in grad.values())
    assert float(loss.directional(loss.point, ones)) == pytest.approx(along, rel=1e-12)


def test_a_training_draws_anew_in_every_step_and_repeats_by_its_seed():
    network = mlp(nn.Dropout(0.5))
    still = lambda ps: torch.optim.SGD(ps, lr=1e-30)  # noqa: E731

    def losses(seed):
        loss = sa.loss(network, (X, Y), mode="train")
        return [r["loss"] for r in sa.train(loss, sa.STE(), still, steps=4, seed=seed)]

    first = losses(0)
    assert len(set(first)) == 5 and first == losses(0) and first != losses(1)


def test_scores_of_a_training_are_in_evaluation_mode():
    network = mlp(nn.Dropout(0.9))
    loss = sa.loss(network, (X, Y), mode="train")
    *_, last = sa.train(loss, sa.STE(), sgd, steps=3)
    found = copy.deepcopy(network).double().eval()
    found.load_state_dict(loss.point)
    law = nn.functional.cross_entropy(found(X.double()), Y)
    assert last["train/loss"] == pytest.approx(float(law.detach()), rel=1e-12)


def test_the_mean_over_steps_is_the_expected_loss():
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1, bias=False)).double()
    x, y = torch.ones(1, 8), torch.zeros(1)
    loss = sa.loss(network, (x, y), mode="train")
    still = lambda ps: torch.optim.SGD(ps, lr=1e-30)  # noqa: E731
    seen = [r["loss"] for r in sa.train(loss, sa.STE(), still, steps=3000)]
    w = network[1].weight.detach()[0]
    law = float(w.sum() ** 2 + w.square().sum())  # E (2 w.m)^2, m of 0 and 1
    assert abs(np.mean(seen) - law) < 4 * np.std(seen) / len(seen) ** 0.5


@pytest.mark.parametrize("track", [True, False])
def test_instance_norm_normalises_by_the_rows_in_training_mode(track):
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=track)
    network = nn.Sequential(nn.Conv1d(1, 4, 3), norm, nn.Flatten(), nn.Linear(24, 3)).double()
    loss = sa.loss(network, (X[:, None], Y), mode="train")
    before = {k: b.clone() for k, b in loss.forward.buffers.items()}
    law = copy.deepcopy(network).train()(X[:, None].double())
    law = nn.functional.cross_entropy(law, Y)
    assert float(loss.value()) == pytest.approx(float(law.detach()), rel=1e-12)
    assert all(torch.equal(b, before[k]) for k, b in loss.forward.buffers.items())
    list(sa.train(loss, sa.STE(), sgd, steps=2))
    moved = any(not torch.equal(b, before[k]) for k, b in loss.forward.buffers.items())
    assert moved == track


def test_batchnorm_takes_the_statistics_of_the_batch_in_training_mode():
    network = mlp(nn.BatchNorm1d(16), nn.ReLU()).double()
    law = nn.functional.cross_entropy(copy.deepcopy(network).train()(X.double()), Y)
    assert float(sa.loss(network, (X, Y), mode="train").value()) == pytest.approx(
        float(law.detach())
    )


def test_a_network_without_such_layers_keeps_its_fast_path_in_training_mode():
    class Step(nn.Module):
        def forward(self, x):
            return sa.sign(x)

    assert sa.loss(mlp(Step()), (X, Y), mode="train").why is None
    why = sa.loss(mlp(Step(), nn.Dropout(0.5)), (X, Y), mode="train").why
    law = "layer '2' (Dropout) works differently in training mode; set mode=eval for exact "
    assert why == law + "differences"


def test_draws_that_torch_does_not_know_of_are_refused_by_the_layers_name():
    class Noise(nn.Module):
        def forward(self, x):
            return x * float(np.random.rand()) if self.training else x

    class Always(nn.Module):
        def forward(self, x):
            return x * torch.rand(())

    with pytest.raises(ValueError, match=r"layer '1' \(Noise\) draws .* draw them with torch"):
        sa.loss(mlp(Noise()), (X, Y), mode="train")
    with pytest.raises(ValueError, match=r"layer '1' \(Always\) gives other outputs each time"):
        sa.loss(mlp(Always()), (X, Y))


def test_one_row_a_step_is_refused_where_batchnorm_needs_a_spread():
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm\).*give more rows"):
        sa.loss(mlp(nn.BatchNorm1d(16)), (X[:1], Y[:1]), mode="train")
    loss = sa.loss(mlp(nn.BatchNorm1d(16)), (X, Y), mode="train")
    with pytest.raises(ValueError, match="batch_size=1.*batchnorm='running'"):
        sa.train(loss, sa.STE(), sgd, steps=1, batch_size=1)


# Rules.


def test_rules_reach_every_weight_of_a_recurrent_layer_by_its_own_name():
    net = sa.quantize(Recurrent(), {"lstm": Uniform(2), "lstm.weight_hh_l0": Uniform(3)})
    x = X[:4]
    assert len(net.lstm.weight_ih_l0.unique()) <= 3 and 3 < len(net.lstm.weight_hh_l0.unique()) <= 7
    law = Recurrent()
    with torch.no_grad():
        law.lstm.weight_ih_l0.copy_(Uniform(2)(law.lstm.weight_ih_l0))
        law.lstm.weight_hh_l0.copy_(Uniform(3)(law.lstm.weight_hh_l0))
    assert torch.equal(net(x), law(x))
    moved = {k: p.detach() + 0.3 for k, p in net.named_parameters()}
    assert not torch.equal(functional_call(net, moved, (x,)), net(x))
    loss = sa.loss(net, (X, Y))
    assert float(loss.value()) == pytest.approx(
        float(sa.loss(law, (X, Y)).value()), rel=1e-6
    )  # the law rounds its weights in float32


def test_rules_reach_both_weights_of_attention():
    net = sa.quantize(Attention(), {"mix*": Uniform(2), "mix.out_proj": Uniform(3)})
    assert len(net.mix.in_proj_weight.unique()) <= 3 < len(net.mix.out_proj.weight.unique()) <= 7
    law = Attention()
    with torch.no_grad():
        law.mix.in_proj_weight.copy_(Uniform(2)(law.mix.in_proj_weight))
        law.mix.out_proj.weight.copy_(Uniform(3)(law.mix.out_proj.weight))
    torch.testing.assert_close(net(X), law(X))
    torch.testing.assert_close(net.eval()(X).detach(), law.eval()(X).detach())


@pytest.mark.parametrize(
    ("make", "rules", "names"),
    [
        (Recurrent, {"lstm": Uniform(3)}, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
        (Attention, {"mix": Uniform(3), "mix.out_proj": Uniform(2)},
         ["mix.in_proj_weight", "mix.out_proj.weight"]),
        (Tied, {"a": Uniform(3)}, ["a.weight"]),
        (lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.ConvTranspose1d(4, 6, 2, groups=2),
                               nn.Flatten(), nn.Linear(18, 3)),
         {"1": Uniform(3, granularity="channel")}, ["1.weight"]),
    ],
)  # fmt: skip
def test_the_straight_through_gradient_is_that_of_the_rounded_weights(make, rules, names):
    """With slope 1 inside of the range, which holds all weights, nothing else is differentiated."""
    torch.manual_seed(0)
    plain = make().double()
    net = sa.quantize(plain, rules, example=X[:2].double())
    with torch.no_grad():
        for name in names:
            owner, _, attribute = name.rpartition(".")
            quantized = getattr(net.get_submodule(owner), attribute)
            plain.get_submodule(owner).get_parameter(attribute).copy_(quantized)
    nn.functional.cross_entropy(plain(X.double()), Y).backward()
    _, grad = sa.loss(net, (X, Y)).value_and_grad()  # without a rule a step has derivative 0
    assert not any(grad[k].any() for k in grad if "parametrizations" in k)
    grad = sa.STE("identity")(sa.loss(net, (X, Y)), seed=0).grad
    law = dict(plain.named_parameters())
    assert {unpatched(k) for k in grad} == set(law)
    for name, g in grad.items():
        torch.testing.assert_close(g, law[unpatched(name)].grad, rtol=1e-10, atol=1e-12)


def test_a_shared_weight_is_quantized_once_at_all_its_places():
    net = sa.quantize(Tied(), {"a": Uniform(2)})
    assert net.a.parametrizations.weight.original is net.b.parametrizations.weight.original
    assert len(list(net.parameters())) == 1 and torch.equal(net.a.weight, net.b.weight)
    law = Tied()
    with torch.no_grad():
        law.a.weight.copy_(Uniform(2)(law.a.weight))
    torch.testing.assert_close(net(X), law(X))
    with pytest.raises(ValueError, match=r"'a.weight' and 'b.weight' are one weight"):
        sa.quantize(Tied(), {"a": Uniform(2), "b": Uniform(3)})


@pytest.mark.parametrize("example", [None, X[:2]])
def test_first_and_last_go_by_the_order_of_the_forward(example):
    with pytest.warns(UserWarning, match="out .last linear layer., early .first convolution."):
        net = sa.quantize(Fork(), {"*": Uniform(2)}, example=example)
    levels = {k: len(getattr(net, k).weight.unique()) for k in ("early", "late", "head", "out")}
    assert levels["late"] <= 3 and levels["head"] <= 3
    assert levels["early"] > 3 and levels["out"] > 3


def test_a_forward_that_cannot_be_traced_needs_an_example():
    class Branch(Fork):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ValueError, match="give example=inputs"):
        sa.quantize(Branch(), {"*": Uniform(2)})
    with pytest.warns(UserWarning, match="early"):
        sa.quantize(Branch(), {"*": Uniform(2)}, example=X[:2])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 8)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.b(self.act(self.a(self.act(x))))


def test_a_layer_at_two_places_has_no_one_range():
    rules = {"act": {"activation": LSQ(4)}}
    with pytest.raises(ValueError, match="layer 'act' is called at 2 places"):
        sa.quantize(Twice(), rules, example=X[:2])
    with pytest.raises(ValueError, match="layer 'act' is called at 2 places"):
        sa.quantize(Twice(), rules)  # without an example, the traced forward shows it
    sa.loss(sa.quantize(Twice(), {"act": {"activation": Levels(4)}}), (X, Y))


def test_a_slot_that_no_forward_reaches_is_refused():
    for rules in ({"c": Uniform(4)}, {"c": {"activation": Levels(4)}}):
        with pytest.raises(ValueError, match="'c.*no forward"):
            sa.loss(sa.quantize(Twice(), rules), (X, Y))
    with pytest.raises(ValueError, match="'mix.out_proj' are quantized, and no forward calls"):
        rules = {"mix.out_proj": {"activation": Levels(4)}}
        sa.quantize(Attention(), rules, example=X[:2])
    with pytest.raises(ValueError, match="the outputs of 'c'.*no forward calls"):
        sa.quantize(Twice(), {"c": {"activation": Levels(4)}})


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(8, 3))
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.n = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.n(self.b(self.a(x))) @ self.w


def test_weights_that_rules_cannot_reach_are_said():
    said = (
        r"full precision: w \(a parameter beside layers\), n.weight \(parametrized\); rules reach"
    )
    with (
        pytest.warns(UserWarning, match=said),
        pytest.warns(UserWarning, match=r"b \(last linear layer\)"),
    ):
        sa.quantize(Beside(), {"*": Uniform(2)})
    once = sa.quantize(Beside(), {"a": Uniform(2)})
    sa.quantize(once, {"b": Uniform(2)})  # names what it reaches: nothing to say


@pytest.mark.parametrize("what", ["uniform", {"weight": 4}, {"activation": "lsq"}])
def test_what_is_no_quantizer_is_refused_by_its_pattern(what):
    with pytest.raises(ValueError, match="^a: .*is no quantizer; expected e.g. sa.Uniform"):
        sa.quantize(Twice(), {"a": what})


def test_a_layer_that_returns_several_tensors_has_no_output_to_quantize():
    net = sa.quantize(Recurrent(), {"lstm": {"activation": Sign()}})
    with pytest.raises(ValueError, match="returns a tuple.*behind it"):
        net(X)


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_of_a_transposed_convolution_are_its_output_channels(groups):
    layer = nn.ConvTranspose1d(4, 6, 3, groups=groups)
    scale = 10.0 ** torch.arange(6)  # by output channel
    with torch.no_grad():
        one = scale.view(groups, 1, 6 // groups, 1).expand(-1, 4 // groups, -1, 3)
        layer.weight.mul_(one.reshape(layer.weight.shape))
    net = sa.quantize(nn.Sequential(layer), {"0": Uniform(8, granularity="channel")})
    error = (net[0].weight - layer.weight).abs().view(groups, 4 // groups, 6 // groups, 3)
    largest = layer.weight.abs().view(groups, 4 // groups, 6 // groups, 3).amax((1, 3))
    assert (error.amax((1, 3)) <= largest / 127).all()


@pytest.mark.parametrize("make", [lambda: LSQ(4), lambda: Pact(4)])
def test_modules_in_float32_stay_in_float32(make):
    net = sa.quantize(mlp(nn.ReLU()), {"1": {"activation": make()}, "0": LSQ(4)})
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net(X).dtype == torch.float32
    loss = sa.loss(net, (X, Y), dtype=torch.float32)
    rows = list(sa.train(loss, sa.STE(), sgd, steps=20))
    assert {p.dtype for p in loss.point.values()} == {torch.float32}
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_full_name_goes_before_a_pattern_and_two_of_a_kind_are_refused():
    for rules in ({"*": Uniform(4), "0": Uniform(2)}, {"0": Uniform(2), "*": Uniform(4)}):
        net = sa.quantize(nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.ReLU()),
                          rules | {"2": Uniform(8)})  # fmt: skip
        own = [component(net[i].parametrizations.weight[0].quantize).bits for i in range(3)]
        assert own == [2, 4, 8]
    with pytest.raises(ValueError, match=r"rules '\*' and '\[01\]' are both for the weights of"):
        sa.quantize(mlp(nn.Linear(16, 16)), {"*": Uniform(4), "[01]": Uniform(2), "2": Sign()})
    two = sa.quantize(mlp(nn.Linear(16, 16)), {("0", "1"): Uniform(2)})
    assert len(two[0].weight.unique()) <= 3 and len(two[1].weight.unique()) <= 3


def test_gains_of_norms_and_weights_of_containers_are_no_weights_of_layers():
    net = nn.Sequential(nn.LayerNorm([2, 4]), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="no layer with weights matches '0'"):
        sa.quantize(net, {"0": Uniform(4)})
