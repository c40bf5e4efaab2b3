"""Networks of any making: what is read is exact, against brute force, or refused with a reason."""

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
        structure=describe(network, frozen, kind, "running", x[:4]),
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


def conv(*between, out=None, **settings):
    layers = [nn.Conv2d(1, 3, 3, **{"padding": 1} | settings), *between]
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
        structure=describe(net, {}, "mse", "running", x[:4]), width=row_width(net, x[:1]),
        numerics=Numerics(dtype="float32", batchnorm="running"), kind="mse", network=net,
    )  # fmt: skip
    f = Objective(forward, Batch(x, rows(40, 3).float()))
    fast, brute = (f.differences(params, [0.1], path) for path in ("fast", "brute"))
    for k, g in fast.grads[0].items():
        torch.testing.assert_close(g, brute.grads[0][k])
