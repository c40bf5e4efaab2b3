"""Tests of the published networks: parameter counts, shapes and outputs."""

import pytest
import torch
from conftest import component, options, studied
from hydra.errors import InstantiationException

from sa.dataset.digits import Digits
from sa.objective.prepare import prepare
from sa.objective.task import Mismatch, Task
from sa.params import stream


def build(name, **settings):
    return component("model", name, **settings).build(stream(0, "init"))


def shapes(network):
    return [tuple(p.shape) for p in network.parameters()]


def count(network):
    return sum(p.numel() for p in network.parameters())


def images(*shape, n=3):
    return torch.randn(n, *shape, generator=stream(1), dtype=torch.float64)


@pytest.mark.parametrize("name", [m for m in options("model") if m.startswith("fc_")])
def test_fc_networks_have_their_stated_shapes_and_equal_their_formula(name):
    network = build(name)
    expected = [(200, 3072), (200,), (200, 200), (200,), (10, 200), (10,)]
    assert shapes(network) == expected
    act = getattr(torch.nn.functional, name.removeprefix("fc_"))
    act = {"fc_tanh": torch.tanh, "fc_linear": torch.nn.Identity()}.get(name, act)
    x = images(3, 32, 32)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    plain = act(act(x.flatten(1) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(network(x), plain)


def test_float_networks_start_with_the_distribution_of_torch():
    w1, b1 = list(build("fc_relu").parameters())[:2]
    conv, bias = list(build("cnn_relu").parameters())[2:4]
    for p, fan_in in ((w1, 3072), (b1, 3072), (conv, 288), (bias, 288)):
        bound = fan_in**-0.5
        assert float(p.detach().abs().max()) <= bound
        spread = float(p.detach().std()) / (bound / 3**0.5)
        assert abs(spread - 1) < 3 / p.numel() ** 0.5  # over 4 standard errors for a uniform


CNN = [(32, 3, 3, 3), (32,), (32, 32, 3, 3), (32,), (10, 2048), (10,)]
FAMILY = {
    f"cnn_{kind}{a}": (kind, a) for kind in ("", "avg_", "bn_") for a in ("relu", "elu", "tanh")
}


@pytest.mark.parametrize("name", FAMILY)
def test_cnn_networks_have_their_stated_shapes_and_equal_their_formula(name):
    kind, act = FAMILY[name]
    network = build(name).eval()
    norm = [(32,), (32,)] if kind == "bn_" else []
    assert shapes(network) == CNN[:2] + norm + CNN[2:4] + norm + CNN[4:]
    f = torch.nn.functional
    pool = f.avg_pool2d if kind == "avg_" else f.max_pool2d
    rest = {k: p for k, p in network.named_parameters() if "norm" not in k}
    x = y = images(3, 32, 32)
    for i in (1, 2):
        y = f.conv2d(y, rest[f"conv{i}.weight"], rest[f"conv{i}.bias"], padding=1)
        y = torch.tanh(y) if act == "tanh" else getattr(f, act)(y)
        # BatchNorm follows the activation; its running statistics start at mean 0 and variance 1
        y = y / (1 + 1e-5) ** 0.5 if norm else y
        y = pool(y, 2)
    torch.testing.assert_close(network(x), f.linear(y.flatten(1), *list(rest.values())[-2:]))


def test_resnet32_has_its_published_shapes_and_parameter_count():
    network = build("resnet32")
    got = shapes(network)
    assert len(got) == 99 and count(network) == 464_250
    assert got[0] == (16, 3, 3, 3) and got[-2:] == [(10, 64), (10,)]
    kernels = [s for s in got if len(s) == 4]
    assert len(kernels) == 31 and all(s[2:] == (3, 3) for s in kernels)
    named = {k: p for k, p in network.named_parameters()}
    extra = [k for k in named if "shortcut" in k]
    assert [tuple(named[k].shape) for k in extra] == [(16,), (16,), (32,), (32,)]
    assert [k.split(".")[0] for k in extra[::2]] == ["block6", "block11"]
    gains = [float(p.detach().abs().max()) for k, p in named.items() if "norm2.weight" in k]
    assert gains == [0.0] * 15
    stages = [s[0] for s in kernels[1:]]
    assert stages == [16] * 10 + [32] * 10 + [64] * 10


def test_resnet32_at_its_start_is_its_stem_and_subsampling():
    network = build("resnet32", shape=[1, 8, 8]).eval()
    x = images(1, 8, 8)
    y = network.act(network.norm(network.conv(x)))
    # the BatchNorms of two shortcuts divide by sqrt(1 + 1e-5) each
    y = y[:, :, ::2, ::2][:, :, ::2, ::2].mean((2, 3)) / (1 + 1e-5)
    expected = y @ network.head.weight[:, :16].T + network.head.bias  # the new channels are 0
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(("name", "expected"), [("vgg11", 9_750_922), ("vgg11_bn", 9_756_426)])
def test_vgg11_has_its_published_shapes_and_parameter_count(name, expected):
    network = build(name)
    assert count(network) == expected
    got = shapes(network)
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    kernels = [s for s in got if len(s) == 4]
    assert kernels == [(o, i, 3, 3) for i, o in zip(widths, widths[1:], strict=False)]
    assert [s for s in got if len(s) == 2] == [(512, 512), (512, 512), (10, 512)]
    pools = [k for k, m in network.named_children() if isinstance(m, torch.nn.MaxPool2d)]
    assert pools == ["pool1", "pool2", "pool4", "pool6", "pool8"]
    weight, bias = network.conv8.weight.detach(), network.conv8.bias
    assert float(weight.std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert not bias.any()


@pytest.mark.parametrize(
    ("depth", "published"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_resnets_have_the_published_counts_and_a_norm_in_each_of_two_shortcuts(depth, published):
    n = (depth - 2) // 6
    widths = {16: (16, n), 32: (16, n), 64: (32, n)}  # width -> width before, blocks
    kernels = 9 * 3 * 16 + sum(9 * w * (b + (2 * k - 1) * w) for w, (b, k) in widths.items())
    norms = 2 * 16 + sum(4 * w * k for w, (_, k) in widths.items())
    network = build(f"resnet{depth}")
    assert count(network) == kernels + norms + 650 + 2 * (16 + 32) == published + 96
    assert len([s for s in shapes(network) if len(s) in (2, 4)]) == depth
    assert network.head.weight.shape == (10, 64)


def test_a_resnet_whose_stages_would_be_unequal_is_refused():
    with pytest.raises(InstantiationException, match="depth=30: three stages of n blocks"):
        component("model", "resnet32", depth=30)


@pytest.mark.parametrize(
    ("depth", "features"), [(11, 9_220_480), (13, 9_404_992), (16, 14_714_688), (19, 20_024_384)]
)
def test_vggs_have_the_published_counts_of_their_convolutions(depth, features):
    with torch.device("meta"):
        network = component("model", "vgg11", depth=depth).build(None)
    assert count(network) == features + 2 * (512 * 512 + 512) + 5_130
    kernels = [s for s in shapes(network) if len(s) == 4]
    assert len(kernels) == depth - 3 and len(shapes(network)) == 2 * depth
    assert len([m for m in network.modules() if isinstance(m, torch.nn.MaxPool2d)]) == 5


@pytest.mark.parametrize("hidden", [[], [7], [7, 5, 6]])
def test_a_deep_linear_network_is_the_product_of_its_matrices(hidden):
    network = build("fc_linear", shape=[4], hidden=hidden, outputs=3)
    x = torch.randn(5, 4, generator=stream(0, "x"), dtype=torch.float64)
    weights = [p for k, p in network.named_parameters() if k.endswith("weight")]
    zero = network(torch.zeros_like(x))
    expected = x
    for w in weights:
        expected = expected @ w.T
    torch.testing.assert_close(network(x) - zero, expected)
    sizes = [4, *hidden, 3]
    assert count(network) == sum(o * (i + 1) for i, o in zip(sizes, sizes[1:], strict=False))


QUANTIZED = {8: 176_418, 16: 701_498, 64: 11_174_090}


@pytest.mark.parametrize("block", ["xnor", "bireal"])
@pytest.mark.parametrize("c", QUANTIZED)
def test_xnor_resnet18_has_its_published_parameter_count_and_16_quantized_layers(c, block):
    network = build("xnor_resnet18", init_channels=c, block=block)
    assert count(network) == QUANTIZED[c]
    layers = [m for m in network.modules() if getattr(m, "quantize", None) and hasattr(m, "weight")]
    assert len(layers) == 16 and all(m.weight.shape[2:] == (3, 3) for m in layers)
    at = [tuple(layers[i].weight.shape[:2]) for i in (0, 7, -2)]
    assert at == [(c, c), (2 * c, 2 * c), (8 * c, 8 * c)]


@pytest.mark.parametrize("c", [8, 16])
def test_moving_by_number_selects_quantized_layers_of_the_xnor_resnet(c):
    model = component("model", "xnor_resnet18", init_channels=c, shape=[1, 8, 8])
    p = prepare(studied(model=model, dataset=Digits(), moving=(1, 8, -2), batch_size=10), 0)
    got = [tuple(v.shape) for v in p.params.values()]
    assert got == [(c, c, 3, 3), (2 * c, 2 * c, 3, 3), (8 * c, 8 * c, 3, 3)]
    forwards = {8: [1_152, 4_608, 73_728], 16: [4_608, 18_432, 294_912]}[c]
    assert [2 * v.numel() for v in p.params.values()] == forwards  # forwards of CDG for each layer


@pytest.mark.parametrize("block", ["xnor", "bireal"])
def test_xnor_blocks_equal_norm_sign_convolution_and_shortcut(block):
    network = build("xnor_resnet18", shape=[1, 8, 8], block=block).eval()
    f, named = torch.nn.functional, dict(network.named_parameters())
    sign = lambda z: torch.where(z >= 0, 1.0, -1.0).double()  # noqa: E731
    a, b = ("body", "body") if block == "xnor" else ("0.body", "1.body")
    down = "shortcut" if block == "xnor" else "0.shortcut"
    x = images(8, 8, 8)  # inputs of the third block, whose BatchNorms divide by sqrt(1 + 1e-5)
    first = f.conv2d(sign(x), named[f"block3.{a}.conv1.weight"], stride=2, padding=1)
    short = f.conv2d(x, named[f"block3.{down}.conv.weight"], stride=2) / (1 + 1e-5) ** 0.5
    middle = first if block == "xnor" else first + short
    second = f.conv2d(sign(middle), named[f"block3.{b}.conv2.weight"], padding=1)
    torch.testing.assert_close(network.block3(x), second + (short if block == "xnor" else middle))


def test_stems_of_the_xnor_resnet_have_their_kernel_and_map_size():
    small, large = (build("xnor_resnet18", stem=s) for s in ("cifar", "imagenet"))
    assert shapes(small)[0] == (8, 3, 3, 3) and shapes(large)[0] == (8, 3, 7, 7)
    x = images(3, 32, 32, n=1)
    for network, side in ((small, 32), (large, 8)):
        seen = []
        network.block1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        network.eval()(x)
        assert seen[0].shape == (1, 8, side, side)


@pytest.mark.parametrize("name", ["resnet32", "xnor_resnet18"])
def test_residual_networks_are_reported_as_no_chains(name):
    with pytest.raises(ValueError, match="block1.*no chain"):
        build(name).links()
    model = component("model", name, shape=[1, 8, 8])
    told = studied(model=model, dataset=Digits(), batchnorm="running").structure().why_not_a_chain
    assert "block1" in told


MLP = {
    "mlp_relu": ([1, 190, 1], 571),
    "mlp_relu_middle": ([1, 10, 18, 15, 4, 1], 572),
    "mlp_relu_deep": ([1, 5, 10, 10, 10, 10, 10, 5, 1], 571),
    "sin_shallow": ([1, 1, 190, 1], 573),
    "sin_deep": ([1, 1, 5, 10, 10, 10, 10, 10, 5, 1], 573),
}


@pytest.mark.parametrize("name", MLP)
def test_mlp_relu_networks_have_their_stated_widths_and_parameter_counts(name):
    widths, expected = MLP[name]
    network = build(name)
    assert count(network) == expected
    pairs = zip(widths, widths[1:], strict=False)
    assert shapes(network) == [s for i, o in pairs for s in ((o, i), (o,))]
    acts = [m for m in network if isinstance(m, torch.nn.ReLU)]
    assert len(acts) == len(widths) - 2


def test_cnn_shallow_and_cnn_deep_have_their_stated_shapes_and_parameter_counts():
    shallow, deep = build("cnn_shallow"), build("cnn_deep")
    assert (count(shallow), count(deep)) == (34_634, 34_658)
    kernels = [s for s in shapes(shallow) if len(s) == 4]
    assert kernels == [(16, 3, 5, 5), (32, 16, 5, 5)]
    kernels = [s for s in shapes(deep) if len(s) == 4]
    assert kernels == [(o, i, 5, 5) for i, o in ((3, 16), (16, 16), (16, 8), (8, 8), (8, 8))]
    for network, pools in ((shallow, ["pool1", "pool2"]), (deep, ["pool2"])):
        names = [k for k, _ in network.named_children()]
        assert [k for k in names if "pool" in k] == pools
        assert names[:3] == ["conv1", "norm1", "act1"]  # BatchNorm comes before the activation
        assert network.head.weight.shape == (10, 2048)


TEN = {
    (4, 4): 3_294, (4, 8): 6_266, (4, 16): 12_210, (4, 32): 24_098, (8, 32): 27_610,
    (16, 32): 34_634, (32, 32): 48_682, (64, 64): 148_554, (128, 64): 255_946,
    (128, 128): 501_898,
}  # fmt: skip


@pytest.mark.parametrize("channels", TEN)
def test_parameter_count_of_cnn2_is_its_formula(channels):
    a, b = channels
    network = build("cnn2", channels=list(channels))
    assert count(network) == TEN[channels] == 78 * a + 25 * a * b + 643 * b + 10
    assert network.head.weight.shape == (10, 64 * b)


@pytest.mark.parametrize(
    "name", [m for m in options("model") if m.startswith(("fc", "cnn", "xnor", "res"))]
)
@pytest.mark.parametrize("side", [8, 16])
def test_image_networks_run_on_digits(name, side):
    network = build(name, shape=[1, side, side], outputs=7).eval()
    assert network(images(1, side, side)).shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("vgg11", {"shape": [1, 16, 16]}, "at least 32x32"),
        ("cnn_relu", {"shape": [3, 3, 3]}, "at least 4x4"),
        ("cnn_relu", {"pooled": [3]}, "from 1 to 2"),
        ("cnn_relu", {"pooled": [1, 1]}, "each once"),
        ("cnn_relu", {"kernel": 4}, "kernel"),
        ("fc_tanh", {"activation": "sine"}, "activation"),
        ("quadratic", {"rank": 9, "size": 8}, "8 eigenvalues"),
        ("rosenbrock", {"size": 3}, "multiple of 2"),
        ("xnor_resnet18", {"stem": "other"}, "stem"),
    ],
)
def test_settings_that_do_not_work_are_refused(name, wrong, told):
    with pytest.raises(InstantiationException) as caught:
        component("model", name, **wrong)
    assert told in str(caught.value.__cause__)


def test_a_shape_that_does_not_fit_says_what_to_type():
    with pytest.raises(Mismatch, match=r"set model.shape=\[1,8,8\]"):
        Task(model=component("model", "resnet32"), dataset=Digits()).check()


def test_a_network_is_built_once_to_be_checked(monkeypatch):
    model = component("model", "fc_tanh", shape=[1, 8, 8])
    built = []
    kind = type(model)
    make = kind.build
    monkeypatch.setattr(kind, "build", lambda self, g: built.append(1) or make(self, g))
    for rows in (10, 20, 30):
        task = studied(model=model, dataset=Digits(), batch_size=rows)
        task.check()
        task.structure()
    assert len(built) == 1
