"""Tests that differences of any torch network equal brute force, or that the reason is given."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from conftest import studied
from torch import nn

from sa import surrogate
from sa.dataset.gaussian import Gaussian
from sa.network.quantize import Rule, apply_quantizers
from sa.network.read import describe, row_width
from sa.network.reading import read
from sa.network.structure import Step
from sa.objective.criterion import CRITERIA
from sa.objective.forward import NetworkForward
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.objective.prepare import prepare
from sa.quantizer.levels import Levels
from sa.quantizer.sign import Sign
from sa.quantizer.uniform import Uniform
from sa.types import Batch

EPS = [0.03, 0.3]
sign = surrogate.sign


def loss(network, x, classes=0, moving=None, vectorized=True):
    """Return the loss of a network on random targets (mse, or ce if classes > 0) and its point."""
    network = network.double().eval()
    g = torch.Generator().manual_seed(1)
    outputs = network(x)
    targets = torch.randn(outputs.shape, generator=g, dtype=torch.float64)
    kind = "mse"
    if classes:
        targets, kind = torch.randint(0, classes, (len(x),), generator=g), "ce"
    named = {k: p.detach() for k, p in network.named_parameters()}
    params = {k: p for k, p in named.items() if moving is None or k in moving}
    frozen = {k: p for k, p in named.items() if k not in params}
    forward = NetworkForward(
        structure=describe(network, frozen, "running", CRITERIA[kind], kind == "mse", x[:16]),
        width=row_width(network, x[:1]),
        numerics=Numerics(batchnorm="running"),
        kind=kind,
        network=network,
        frozen=frozen,
        vectorized=vectorized,
    )
    return Objective(forward, Batch(x, targets)), params


def rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(network, x, eps=EPS, **settings):
    """Assert that the fast differences equal brute force; return the objective and differences."""
    f, params = loss(network, x, **settings)
    fast, brute = (f.differences(params, eps, path) for path in ("auto", "brute"))
    assert fast.path == "fast", f.structure.why_no_fast_path
    for a, b, e in zip(fast.grads, brute.grads, eps, strict=True):
        for k in a:
            scale = max(1e-3 / e, float(b[k].abs().max()))
            assert float((a[k] - b[k]).abs().max()) <= 1e-11 * scale, (k, fast.paths)
    assert any(g.any() for g in fast.grads[-1].values())
    return f, fast


def is_chain(network, x, **settings):
    f, fast = exact(network, x, **settings)
    assert f.structure.why_not_a_chain is None and not f.structure.cuts
    return f, fast


def reason(network, x):
    """Return why a network is no chain, or None."""
    return read(network.double().eval(), x, [k for k, _ in network.named_parameters()]).why


def settled(network, seed=0):
    """Return the network with random BatchNorm statistics and gains of both signs."""
    g = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            for v, middle in ((m.running_mean, 0), (m.weight.data, 1), (m.bias.data, 0)):
                v.copy_(middle + 0.7 * torch.randn(v.shape, generator=g))
    return network


class Made(nn.Module):
    """A network of given layers with a given forward function (network, x) -> outputs."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.act = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.act(self, x)


class MySign(nn.Module):
    step = Step((0.0,), (-1.0, 1.0))

    def forward(self, x):
        return sign(x)


class Ternary(nn.Module):
    step = Step((-0.4, 0.6), (-1.0, 0.0, 1.0))

    def forward(self, x):
        return (x >= 0.6).to(x.dtype) + (x >= -0.4).to(x.dtype) - 1


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def own():
    """Return a network of three layers without modules of sa, one of them a plain parameter."""

    def forward(net, x):
        h = sign(net.a(x.view(x.size(0), -1)))
        h = F.linear(h, net.w, net.b)
        return net.c(surrogate.step(h, surrogate.hard_sign))

    net = Made(forward, a=nn.Linear(8, 7), c=nn.Linear(6, 3))
    net.w, net.b = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(6))
    return net


@pytest.mark.parametrize("classes", [0, 3])
def test_a_network_with_its_own_forward_is_read_as_a_chain(classes):
    f, fast = is_chain(own(), rows(40, 2, 4), classes=classes)
    assert fast.paths == {"a.weight": "flips", "w": "flips", "c.weight": "output"}
    assert f.structure.plain


def test_frozen_parameters_of_a_chain_get_no_differences():
    _, fast = is_chain(own(), rows(40, 8), moving=["w", "a.bias"])
    assert set(fast.grads[0]) == {"w", "a.bias"}


def test_values_of_a_traced_chain_equal_those_of_the_network():
    f, params = loss(own(), rows(40, 8))
    stack = {k: torch.stack([p, p + 0.1, p - 0.2]) for k, p in params.items()}
    each = [f.value({k: v[i] for k, v in stack.items()}) for i in range(3)]
    torch.testing.assert_close(f.values(stack), torch.stack(each), rtol=1e-12, atol=0)


STEPS = {
    "own sign": lambda: [MySign()],
    "hardtanh and sign": lambda: [nn.Hardtanh(), MySign()],
    "own ternary": lambda: [Ternary()],
    "hardtanh and ternary": lambda: [nn.Hardtanh(), Ternary()],
    "norm and sign": lambda: [nn.BatchNorm1d(6), MySign()],
    "dropout": lambda: [nn.Dropout(), MySign(), nn.Identity()],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_sequential_of_torch_layers_and_custom_steps_is_a_chain(name):
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), *STEPS[name](), nn.Linear(6, 2))
    is_chain(settled(net), rows(40, 2, 2, 2))


def conv(*between, out=None, kernel=3, **settings):
    layers = [nn.Conv2d(1, 3, kernel, **{"padding": 1} | settings), *between]
    return settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(out or 3 * 36, 2)))


def mean(act):
    return Made(
        lambda net, x: net.head(act(sign(net.two(sign(net.norm(net.one(x))))))),
        one=nn.Conv2d(1, 3, 3, bias=False), norm=nn.BatchNorm2d(3),
        two=nn.Conv2d(3, 4, 3, padding="same"), head=nn.Linear(4, 2),
    )  # fmt: skip


CONVS = {
    "flat": (lambda: conv(MySign()), ["patterns", "output"]),
    "norm": (lambda: conv(nn.BatchNorm2d(3), MySign()), ["patterns", "output"]),
    "pooled": (
        lambda: conv(nn.AvgPool2d(2), nn.BatchNorm2d(3), MySign(), out=27),
        ["patterns", "output"],
    ),
    "whole maps pooled": (lambda: conv(MySign(), nn.AvgPool2d(6), out=3), ["patterns", "output"]),
    "no padding": (lambda: conv(MySign(), padding=0, out=48), ["patterns", "output"]),
    "flat before the step": (lambda: conv(nn.Flatten(), MySign()), ["patterns", "output"]),
    "mean": (
        lambda: settled(mean(lambda h: h.mean((2, 3)))), ["patterns", "counting", "output"],
    ),
    "mean, dimensions from the end": (
        lambda: mean(lambda h: torch.mean(h, dim=(-1, -2), keepdim=True).flatten(1)),
        ["patterns", "counting", "output"],
    ),
    "adaptive": (
        lambda: mean(lambda h: F.adaptive_avg_pool2d(h, (1, 1)).view(h.size(0), -1)),
        ["patterns", "counting", "output"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_networks_of_convolutions_are_chains(name):
    make, paths = CONVS[name]
    _, fast = is_chain(make(), rows(12, 1, 6, 6), eps=[0.2])
    assert list(fast.paths.values()) == paths


def test_a_functional_convolution_is_a_chain():
    def forward(net, x):
        h = F.avg_pool2d(F.conv2d(x, net.w, padding=1), 2)
        return net.c(sign(h).reshape(h.shape[0], -1))

    net = Made(forward, c=nn.Linear(18, 2))
    net.w = nn.Parameter(torch.randn(2, 1, 3, 3))
    is_chain(net, rows(12, 1, 6, 6), eps=[0.2])


def test_a_network_in_float32_is_read_and_differentiated_in_float64():
    torch.manual_seed(0)
    net = own().float().eval()
    x = rows(40, 8).float()
    params = {k: p.detach() for k, p in net.named_parameters()}
    forward = NetworkForward(
        structure=describe(net, {}, "running", CRITERIA["mse"], True, x[:16]),
        width=row_width(net, x[:1]),
        numerics=Numerics(dtype="float32", batchnorm="running"),
        kind="mse",
        network=net,
    )
    f = Objective(forward, Batch(x, rows(40, 3).float()))
    fast, brute = (f.differences(params, [0.1], path) for path in ("fast", "brute"))
    for k, g in fast.grads[0].items():
        torch.testing.assert_close(g, brute.grads[0][k])


def stack(*between):
    return nn.Sequential(nn.Linear(6, 6), *between, MySign(), nn.Linear(6, 2))


def hooked(register):
    net = stack()
    getattr(net[0], register)(lambda *args: None)
    return net


def tied():
    net = nn.Sequential(nn.Linear(6, 6), MySign(), nn.Linear(6, 6), MySign(), nn.Linear(6, 2))
    net[2].weight = net[0].weight
    return net


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, MySign(), layer, MySign(), nn.Linear(6, 2))


def twice(net, x):
    return net.b(sign(net.a(sign(net.a(x)))))


def scaled(net, x):
    return net.b(sign(F.linear(x, net.a.weight.abs(), net.a.bias)))


def reused(net, x):
    return net.b(sign(F.linear(sign(net.a(x)), net.a.weight)))


def same_bias(net, x):
    return net.b(sign(F.linear(sign(net.a(x)), net.c, net.a.bias)))


def branching(net, x):
    h = net.a(x)
    return net.b(sign(h) if h.sum() > 0 else h)


def counting(net, x):
    net.a.bias.data.add_(0.1)
    return net.b(sign(net.a(x)))


def late(net, x):
    h = net.a(x)
    h.add_(sign(h))
    return net.b(h)


def setting(net, x):
    h = net.a(x)
    h[:, 0] = 0
    return net.b(sign(h))


def random(net, x):
    return net.b(sign(net.a(x) + torch.randn(x.shape, dtype=x.dtype)))


def broken(net, x):
    return net.b(sign(net.missing(x)))


def length(net, x):
    return net.b(sign(net.a(x.view(len(x), -1))))


def made(forward):
    net = Made(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 2))
    net.c = nn.Parameter(torch.randn(6, 6))
    return net


class TwoInputs(nn.Linear):
    def forward(self, x, mask):
        return super().forward(x * mask)


class Wrong(nn.Module):
    """A step that declares sign(0) = +1 but returns 0 at 0."""

    step = Step((0.0,), (-1.0, 1.0))

    def forward(self, x):
        return x.sign()


REFUSALS = [
    (lambda: hooked("register_forward_hook"), r"layer '0' \(Linear\) has a forward hook.*remove"),
    (lambda: hooked("register_forward_pre_hook"), r"layer '0' \(Linear\) has a forward pre-hook"),
    (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)), "parametrized or quantized"),
    (tied, "^'0.weight' and '2.weight' are one parameter$"),
    (shared, "^'0.weight' and '2.weight' are one parameter$"),
    (lambda: made(twice), "^layer 'a' is used 2 times$"),
    (lambda: made(reused), "^layer 'a' is used 2 times$"),
    (lambda: made(same_bias), "^layer 'a' is used 2 times$"),
    (lambda: made(scaled), "the weight of the operation 'linear' is no parameter, but computed"),
    (lambda: made(branching), "cannot be traced: the forward branches or loops on values"),
    (lambda: made(counting), "^the operation 'add' changes in place what is used again$"),
    (lambda: made(late), "^the operation 'add' changes in place what is used again$"),
    (lambda: made(setting), "the forward assigns to a part of a tensor; write"),
    (lambda: made(random), "gives other outputs each time"),
    (lambda: made(length), "len\\(\\) of a tensor; write x.size\\(0\\) instead"),
    (lambda: stack(nn.GELU()), r"^layer '1' \(GELU\) is not a step$"),
    (lambda: stack(nn.ReLU()), r"^layer '1' \(ReLU\) is not a step$"),
    (lambda: stack(nn.LayerNorm(6)), r"^layer '1' \(LayerNorm\) is neither an affine map nor"),
    (lambda: stack(nn.BatchNorm1d(6, track_running_stats=False)), "keeps no running statistics"),
    (lambda: stack(nn.Hardtanh(0, 1)), "has a threshold outside of the range of layer '1'"),
    (lambda: stack(nn.Hardtanh(), nn.Linear(6, 6)), r"layer '1' \(Hardtanh\) is not a step"),
    (lambda: stack(Wrong(), nn.Linear(6, 6)), r"'1' \(Wrong\) is not the step .*at 0 it gives 0"),
    (lambda: nn.Sequential(nn.Linear(6, 2), MySign()), "last layer's output goes through a step"),
    (lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)), "no step function follows layer"),
    (lambda: nn.Sequential(nn.Linear(6, 2), nn.Tanh()), r"'1' \(Tanh\) is not a step"),
    (lambda: made(lambda net, x: net.b(torch.sign(net.a(x)))), "write sa.sign"),
    (lambda: made(lambda net, x: net.b(torch.tanh(net.a(x)))), "'tanh' is not a step"),
    (lambda: made(lambda net, x: net.b(F.gelu(net.a(x)))), "'gelu' is not a step"),
    (lambda: made(lambda net, x: net.b(surrogate.step(net.a(x), torch.floor))), "step=Step\\("),
    (lambda: made(lambda net, x: net.b(x + sign(net.a(x)))), "the input is used 2 times: no chain"),
    (lambda: made(lambda net, x: (net.b(x), x)), "returns a tuple, not one tensor"),
    (lambda: TwoInputs(6, 2), r"takes 2 inputs \(x, mask\), not one"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), REFUSALS, ids=[why[:40] for _, why in REFUSALS])
def test_the_reason_why_a_network_is_no_chain_is_given(make, why):
    found = reason(make(), rows(16, 6))
    assert found is not None and re.search(why, found), found


CONV_REFUSALS = [
    (lambda: conv(nn.Conv2d(3, 3, 3, padding=1, groups=3), MySign()), "has groups=3"),
    (lambda: conv(MySign(), nn.Conv2d(3, 3, 3, padding=2, dilation=2), MySign()), "dilation="),
    (lambda: conv(MySign(), stride=2, out=27), "has stride 2"),
    (lambda: conv(MySign(), kernel=(3, 1), padding=(1, 0)), "kernel that is not square"),
    (lambda: conv(MySign(), padding_mode="circular"), "pads with 'circular', not with zeros"),
    (lambda: conv(nn.MaxPool2d(2), MySign(), out=27), r"'1' \(MaxPool2d\) is neither"),
    (lambda: nn.Sequential(nn.Linear(6, 6), MySign(), nn.Flatten(), nn.Linear(36, 2)),
     "takes inputs of 4 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), CONV_REFUSALS, ids=[why for _, why in CONV_REFUSALS])
def test_the_reason_why_a_convolution_is_no_link_is_given(make, why):
    found = reason(make(), rows(16, 1, 6, 6))
    assert found is not None and re.search(why, found), found


def test_an_error_inside_a_forward_is_given_as_the_reason():
    net = made(broken).double().eval()
    found = read(net, rows(16, 6), ["a.weight"]).why
    assert found.startswith("the forward fails on example rows")


def untraced(net, x):
    """Flip the signs unless a bias is -1; the trace cannot see how the bias is read."""
    bias = float(net.b._parameters["bias"][0])
    return net.b(sign(net.a(x if bias == -1 else -x)))


def test_a_computation_that_the_trace_missed_is_found_by_comparing_outputs():
    """The bias is -1 at the first point, where the trace is right; it is wrong at other points."""
    net = made(untraced)
    net.b.bias.data.fill_(-1.0)
    found = reason(net, rows(16, 6))
    assert "the outputs of the traced operations differ from the network's" in found


def test_a_forward_that_was_replaced_on_a_layer_is_the_one_traced():
    net = stack()
    net[0].forward = lambda x: F.linear(x, net[0].weight, net[0].bias).clamp(-0.1, 0.1)
    assert "'clamp'" in reason(net, rows(16, 6))


def test_reading_a_network_does_not_change_it():
    net = made(counting).double().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    read(net, rows(16, 6), ["a.weight"])
    for k, v in net.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)


def test_the_reason_for_batch_statistics_names_the_setting_to_change():
    told = describe(
        stack(nn.BatchNorm1d(6)).eval(), {}, "batch", CRITERIA["mse"], True, rows(16, 6)
    ).why_not_a_chain
    assert "layer '1' (BatchNorm) normalises by the batch" in told
    assert "set batchnorm=running" in told


class Block(nn.Module):
    """A residual block of convolutions whose first has stride 2."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        h = sign(self.norm1(self.one(x)))
        return torch.relu(self.norm2(self.two(h)) + self.shortcut(x))


def residual_conv():
    def forward(net, x):
        return net.head(net.block(sign(net.stem(x))).mean((2, 3)))

    return settled(
        Made(forward, stem=nn.Conv2d(1, 2, 3), block=Block(2, 3, 2), head=nn.Linear(3, 2))
    )


class Step2(nn.Module):
    """A network with a product of two branches, a concatenation and a sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)
        self.c, self.head = nn.Linear(10, 5), nn.Linear(5, 2)
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, x):
        a, b = sign(self.a(x)), torch.sigmoid(self.b(x))
        h = sign(self.c(torch.cat([a, a * b], dim=1))) + self.scale * b
        return self.head(h.view(x.size(0), -1))


def residual_mlp():
    def forward(net, x):
        h = net.a(x)
        h += sign(net.b(sign(h)))
        h = h + net.relu(net.d(net.norm(h)))
        return net.head(h)

    return settled(
        Made(
            forward, a=nn.Linear(6, 5), b=nn.Linear(5, 5), norm=nn.BatchNorm1d(5),
            d=nn.Linear(5, 5), relu=nn.ReLU(inplace=True), head=nn.Linear(5, 2),
        )
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.embed, self.head = nn.Linear(2, 3), nn.Linear(4, 2)

    def forward(self, x):
        h, _ = self.lstm(sign(self.embed(x)))
        return self.head(h[:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(2, 4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = self.norm(self.embed(x))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(sign(self.up(h)).mean(1))


SERIAL = ("lstm", "attention", "residual mlp")  # torch.vmap cannot run these
CUT = {  # network, shape of a row, the computation of each weight's differences
    "residual convolutions": (residual_conv, (1, 6, 6), {
        "stem.weight": "patterns", "block.one.weight": "patterns", "block.two.weight": "suffixes",
        "block.shortcut.weight": "suffixes", "head.weight": "suffixes",
    }),
    "residual mlp": (residual_mlp, (6,), {
        "a.weight": "suffixes", "b.weight": "patterns", "d.weight": "suffixes",
        "head.weight": "suffixes",
    }),
    "products and concatenations": (Step2, (6,), {
        "a.weight": "patterns", "b.weight": "suffixes", "c.weight": "patterns",
        "head.weight": "suffixes",
    }),
    "lstm": (Recurrent, (3, 2), {
        "embed.weight": "patterns", "lstm.weight_ih_l0": "brute", "head.weight": "suffixes",
    }),
    "attention": (Attending, (3, 2), {"up.weight": "patterns", "head.weight": "suffixes"}),
}  # fmt: skip


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("name", CUT)
def test_a_network_that_is_no_chain_has_exact_differences_at_its_affine_maps(name, classes):
    make, shape, ways = CUT[name]
    x = rows(12, *shape)
    f, fast = exact(make(), x, eps=[0.2, 0.4], classes=classes, vectorized=name not in SERIAL)
    assert {k: fast.paths[k] for k in ways} == ways
    uncut = set(fast.grads[0]) - {c.links[0].weight for c in f.structure.cuts}
    assert {k for k, way in fast.paths.items() if way == "brute"} == uncut
    brute = 2 * sum(g.numel() for g in fast.grads[0].values()) * 2
    assert fast.evals < brute


def test_activation_quantizers_added_by_rules_are_read_as_steps():
    """A rule registers a hook of sa, which is read as a step after the affine map."""
    net = nn.Sequential(nn.Linear(6, 5), nn.Hardtanh(), nn.Linear(5, 5), nn.Linear(5, 2)).double()
    apply_quantizers(net, [Rule("1", activation=Sign()), Rule("2", activation=Levels(4))])
    is_chain(net, rows(30, 6))


def test_layers_with_quantized_weights_take_brute_force_and_the_others_do_not():
    net = nn.Sequential(nn.Linear(6, 5), MySign(), nn.Linear(5, 5), MySign(), nn.Linear(5, 2))
    apply_quantizers(net.double(), [Rule("2", weight=Uniform(bits=4))])
    _, fast = exact(net, rows(30, 6))
    ways = {k: way for k, way in fast.paths.items() if k.endswith(("weight", "original"))}
    assert ways == {
        "0.weight": "patterns", "2.parametrizations.weight.original": "brute",
        "4.weight": "suffixes",
    }  # fmt: skip


class LayerOfSteps(nn.Module):
    """One layer of a random network: an affine map, perhaps a norm, and a random operation."""

    def __init__(self, g, width, kinds):
        super().__init__()
        self.map = nn.Linear(width, width, bias=bool(torch.rand((), generator=g) < 0.7))
        self.norm = nn.BatchNorm1d(width) if torch.rand((), generator=g) < 0.4 else None
        self.kind = kinds[int(torch.randint(len(kinds), (), generator=g))]
        self.ternary = Ternary()

    def forward(self, x):
        z = self.map(x)
        z = z if self.norm is None else self.norm(z)
        if self.kind == "sign":
            return sign(F.hardtanh(z))
        if self.kind == "ternary":
            return self.ternary(z)
        if self.kind == "residual":
            return x + sign(z)
        if self.kind == "gate":
            return x * torch.sigmoid(z)
        return torch.relu(z) if self.kind == "relu" else torch.cat([z[:, :2], x[:, 2:]], 1)


class Random(nn.Module):
    def __init__(self, seed, kinds):
        super().__init__()
        g, width = torch.Generator().manual_seed(seed), 5
        many = 1 + int(torch.randint(3, (), generator=g))
        self.layers = nn.ModuleList(LayerOfSteps(g, width, kinds) for _ in range(many))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        h = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            h = layer(h)
        return self.head(h)


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_of_steps_are_chains(seed):
    torch.manual_seed(seed)
    net = settled(Random(seed, ["sign", "ternary"]), seed)
    is_chain(net, rows(25, 5, 1, seed=seed), classes=2 * (seed % 2))


@pytest.mark.parametrize("seed", range(20))
def test_differences_of_random_networks_of_any_kind_are_exact(seed):
    torch.manual_seed(seed)
    net = settled(Random(seed, "sign ternary residual gate relu cat".split()), seed)
    exact(net, rows(25, 5, 1, seed=seed), classes=2 * (seed % 2))


def test_operations_in_place_do_not_spoil_the_differences():
    """Another branch changes the input of the affine map in place afterwards."""

    def forward(net, x):
        h = net.norm(x)
        a = sign(net.a(h))
        return net.b(a + h.relu_())

    net = made(forward)
    net.norm = nn.BatchNorm1d(6)
    _, fast = exact(settled(net), rows(20, 6), vectorized=False)
    assert fast.paths["a.weight"] == "patterns"


def test_rows_that_depend_on_each_other_are_given_as_the_reason():
    net = made(lambda net, x: net.b(sign(net.a(x - x.mean(0)))))
    assert reason(net, rows(16, 6)) == "the output of a row depends on the other rows of the batch"


def test_operations_that_fail_on_some_rows_alone_are_left_to_brute_force():
    """Values with the sequence before the rows cannot be split into some rows alone."""

    def forward(net, x):
        h = x.transpose(0, 1)  # (6, rows, 6)
        return (net.b(sign(net.a(x))) + net.b2(h.relu()).transpose(0, 1)).mean(1)

    net = made(forward)
    net.b2 = nn.Linear(6, 2)
    found = read(net.double().eval(), rows(16, 6, 6), ["a.weight", "b2.weight"])
    assert set(found.cuts) == {"a.weight"}
    assert found.whys["b2.weight"].startswith("the operations behind 'b2.weight' fail on some rows")


def test_killed_differences_resume_at_every_stage_with_the_same_result(tmp_path):
    class Kept:
        """A store of partial results in memory that kills the process after ``most`` saves."""

        def __init__(self, states, most):
            self.states, self.most, self.number = states, most, -1

        def take(self):
            self.number += 1
            return self.number, self.states.get(self.number, {})

        def keep(self, number, state):
            self.states[number] = state
            self.most -= 1
            if self.most < 0:
                raise KeyboardInterrupt

    f, params = loss(Step2(), rows(20, 6))
    whole = f.differences(params, EPS)
    for most in (1, 3, 5, 7):
        states = {}
        with pytest.raises(KeyboardInterrupt):
            replace(f, partial=Kept(states, most)).differences(params, EPS)
        again = replace(f, partial=Kept(states, 10**6)).differences(params, EPS)
        assert again.evals == whole.evals and again.paths == whole.paths
        for a, b in zip(again.grads, whole.grads, strict=True):
            assert all(torch.equal(a[k], b[k]) for k in a)


@dataclass(frozen=True)
class Own:
    """A model whose network has no modules of sa."""

    shape: tuple = (6,)
    outputs: int = 2

    def build(self, generator):
        torch.manual_seed(0)
        return Step2().double()


def test_a_task_with_a_custom_model_has_exact_differences():
    task = studied(model=Own(), dataset=Gaussian(dim=6, n=50), batchnorm="running")
    p = prepare(task, 0)
    assert len(p.structure.cuts) == len(task.structure().cuts) == 4
    f = p.objective(p.batch(0))
    fast, brute = (f.differences(p.params, [0.2], path) for path in ("auto", "brute"))
    for k, g in fast.grads[0].items():
        torch.testing.assert_close(g, brute.grads[0][k], rtol=1e-11, atol=1e-12)
