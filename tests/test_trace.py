"""Networks of any making: what is read is exact, against brute force, or refused with a reason."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sa import surrogate
from sa.network.read import describe, row_width
from sa.network.reading import read
from sa.network.structure import Step
from sa.objective.forward import NetworkForward
from sa.objective.numerics import Numerics
from sa.objective.objective import Objective
from sa.types import Batch

EPS = [0.03, 0.3]
sign = surrogate.sign


def loss(network, x, classes=0, moving=None, vectorized=True):
    """The loss of a network on random targets: mse, or ce of so many classes."""
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
        structure=describe(network, frozen, kind, "running", x[:16]),
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
    """The fast differences, if they are brute force's."""
    f, params = loss(network, x, **settings)
    fast, brute = (f.differences(params, eps, path) for path in ("auto", "brute"))
    assert fast.path == "fast", f.structure.slow
    for a, b, e in zip(fast.grads, brute.grads, eps, strict=True):
        for k in a:
            scale = max(1e-3 / e, float(b[k].abs().max()))
            assert float((a[k] - b[k]).abs().max()) <= 1e-11 * scale, (k, fast.paths)
    assert any(g.any() for g in fast.grads[-1].values())
    return f, fast


def is_chain(network, x, **settings):
    f, fast = exact(network, x, **settings)
    assert f.structure.obstacle is None and not f.structure.cuts
    return f, fast


def reason(network, x):
    """Why a network is no chain."""
    return read(network.double().eval(), x, [k for k, _ in network.named_parameters()]).why


def settled(network, seed=0):
    """A network whose norms have seen something, with either sign of their gain."""
    g = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            for v, middle in ((m.running_mean, 0), (m.weight.data, 1), (m.bias.data, 0)):
                v.copy_(middle + 0.7 * torch.randn(v.shape, generator=g))
    return network


class Made(nn.Module):
    """A network of some layers, with a forward of the test's own: (network, x) -> outputs."""

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
    """Three layers, functional: no module of the project, one weight without its layer's call."""

    def forward(net, x):
        h = sign(net.a(x.view(x.size(0), -1)))
        h = F.linear(h, net.w, net.b)
        return net.c(surrogate.step(h, surrogate.hard_sign))

    net = Made(forward, a=nn.Linear(8, 7), c=nn.Linear(6, 3))
    net.w, net.b = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(6))
    return net


@pytest.mark.parametrize("classes", [0, 3])
def test_an_own_forward_is_a_chain(classes):
    f, fast = is_chain(own(), rows(40, 2, 4), classes=classes)
    assert fast.paths == {"a.weight": "flips", "w": "flips", "c.weight": "output"}
    assert f.structure.plain


def test_a_frozen_layer_of_a_chain_gets_no_difference():
    _, fast = is_chain(own(), rows(40, 8), moving=["w", "a.bias"])
    assert set(fast.grads[0]) == {"w", "a.bias"}


def test_many_points_of_a_read_chain_are_evaluated_as_the_network_does():
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
def test_a_sequential_of_torch_layers_and_own_steps_is_a_chain(name):
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
def test_convolutions_are_a_chain(name):
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
        structure=describe(net, {}, "mse", "running", x[:16]), width=row_width(net, x[:1]),
        numerics=Numerics(dtype="float32", batchnorm="running"), kind="mse", network=net,
    )  # fmt: skip
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
    """Says that it is a sign with sign(0) = +1, but is 0 there."""

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
    (lambda: made(counting), "^layer 'a' is used 2 times$"),
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
def test_what_is_no_chain_says_why(make, why):
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
def test_a_convolution_that_is_no_link_says_why(make, why):
    found = reason(make(), rows(16, 1, 6, 6))
    assert found is not None and re.search(why, found), found


def test_an_attribute_error_in_a_forward_is_a_reason_in_words():
    net = made(broken).double().eval()
    found = read(net, rows(16, 6), ["a.weight"]).why
    assert found.startswith("the forward fails on example rows")


def untraced(net, x):
    """Adds a number that operations on the inputs' data give, which no trace holds."""
    shift = net.b.bias.data.clamp(min=0)
    return net.b(sign(net.a(x))) + shift


def test_what_no_trace_holds_is_found_by_the_verification():
    """At the first point the shift is 0 and the trace is right; at another one it is not."""
    net = made(untraced)
    net.b.bias.data.fill_(-1.0)
    assert reason(net, rows(16, 6)) is not None


def test_a_patched_forward_is_traced_as_it_is():
    net = stack()
    net[0].forward = lambda x: F.linear(x, net[0].weight, net[0].bias).clamp(-0.1, 0.1)
    assert "'clamp'" in reason(net, rows(16, 6))


def test_reading_leaves_the_network_as_it_is():
    net = made(counting).double().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    read(net, rows(16, 6), ["a.weight"])
    for k, v in net.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)


def test_batchnorm_of_the_batch_says_what_to_set():
    told = describe(stack(nn.BatchNorm1d(6)).eval(), {}, "mse", "batch", rows(16, 6)).obstacle
    assert "layer '1' (BatchNorm) normalises by the batch" in told
    assert "set batchnorm=running" in told
