"""Tests that every model builds, depends on its random stream alone and has its stated shapes."""

import pytest
import torch
from conftest import component, options
from pydantic import ValidationError

from sa.params import stream


@pytest.mark.parametrize("name", options("model"))
def test_every_model_depends_on_its_random_stream_alone(name):
    spec = component("model", name)
    torch.manual_seed(1)
    one = spec.build(stream(0, "init"))
    torch.manual_seed(2)
    two, other = spec.build(stream(0, "init")), spec.build(stream(1, "init"))
    for k, v in one.state_dict().items():
        assert torch.equal(v, two.state_dict()[k])
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    x = torch.randn(5, *spec.shape, dtype=torch.float64)
    assert one.eval()(x).shape == (5, spec.outputs)


@pytest.mark.parametrize(("dim", "count"), [(8, 200), (16, 784), (32, 3104), (64, 12352)])
def test_toy_mlp_has_3_d_squared_plus_d_parameters(dim, count):
    network = component("model", "toy_mlp", dim=dim).build(stream(0))
    assert sum(p.numel() for p in network.parameters()) == count
    assert [tuple(p.shape) for p in network.parameters()] == [(dim, dim)] * 3 + [(1, dim)]


def test_toy_mlp_equals_its_formula():
    network = component("model", "toy_mlp", dim=4, hidden=2, out=4).build(stream(0))
    w1, w2, head = network.parameters()
    x = torch.randn(7, 4, dtype=torch.float64)
    sign = lambda z: torch.where(z >= 0, 1.0, -1.0).double()  # noqa: E731
    expected = sign(sign(x @ w1.T) @ w2.T) @ head.T
    torch.testing.assert_close(network(x), expected)


def test_weights_start_uniform_within_1_over_sqrt_of_the_fan_in():
    w = component("model", "toy_mlp", dim=64).build(stream(0)).fc1.weight
    assert float(w.detach().abs().max()) <= 1 / 8
    assert abs(float(w.detach().std()) / (1 / 8 / 3**0.5) - 1) < 0.03


def quantizers(weight, activation):
    return {
        "_target_": "sa.types.Slots",
        "weight": {"_target_": f"sa.quantizer.{weight}"},
        "activation": {"_target_": f"sa.quantizer.{activation}"},
    }


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_mlp_and_cnn_quantize_all_layers_but_the_first_and_the_last(name):
    slots = quantizers("xnor.Xnor", "sign.Sign")
    network = component("model", name, quantizer=slots).build(stream(0))
    weighted = [m for m in network.modules() if hasattr(m, "quantize") and hasattr(m, "weight")]
    assert [m.quantize is not None for m in weighted] == [False] + [True] * (len(weighted) - 2) + [
        False
    ]


def test_mlp_with_every_and_spread_quantizes_all_weights_and_draws_distinct_biases():
    slots = quantizers("xnor.Xnor", "sign.Sign")
    for norm in ("none", "batch"):
        made = component("model", "mlp", quantizer=slots, every=True, spread=True, norm=norm)
        network = made.build(stream(0))
        maps = [m for m in network.modules() if hasattr(m, "weight") and hasattr(m, "quantize")]
        assert len(maps) == 3 and all(m.quantize is not None for m in maps)
        biased = [m for m in maps if m.bias is not None]
        assert len(biased) == (3 if norm == "none" else 1)
        assert all(m.bias.abs().max() <= m.weight.shape[1] ** -0.5 for m in biased)
        assert all(len(m.bias.unique()) == len(m.bias) for m in biased)


@pytest.mark.parametrize("name", ["mlp_line", "mlp_line_middle", "mlp_line_deep"])
def test_sign_units_cut_a_line_into_at_most_one_piece_more_than_the_first_layer_has_units(name):
    twin = component("model", name.replace("line", "relu")).build(stream(0))
    network = component("model", name).build(stream(0))
    assert [p.shape for p in network.parameters()] == [p.shape for p in twin.parameters()]
    for p in network.parameters():
        p.data.mul_(3)
    outputs = network(torch.linspace(-1, 1, 5001, dtype=torch.float64).unsqueeze(1))
    pieces = 1 + int((outputs.diff(dim=0) != 0).sum())
    assert 2 <= pieces <= 1 + len(network.fc1.weight)


def test_links_describe_a_chain_and_name_the_layer_that_is_none():
    mlp = component("model", "mlp").build(stream(0))
    assert [(x.weight, x.bias, x.step is not None) for x in mlp.links()] == [
        ("fc1.weight", "fc1.bias", True),
        ("fc2.weight", "fc2.bias", True),
        ("head.weight", "head.bias", False),
    ]
    cnn = component("model", "cnn", head="average").build(stream(0)).links()
    assert [(x.padding, x.pool, x.norm and x.norm.name, x.average) for x in cnn] == [
        (1, 2, "norm1", False),
        (1, 2, "norm2", False),
        (None, 1, None, True),
    ]
    smooth = component("model", "mlp", quantizer=quantizers("none.Identity", "none.Identity"))
    with pytest.raises(ValueError, match="act1"):
        smooth.build(stream(0)).links()
    binary = component("model", "mlp", quantizer=quantizers("xnor.Xnor", "sign.Sign"))
    with pytest.raises(ValueError, match="fc2.*quantized"):
        binary.build(stream(0)).links()


def test_cnn_has_its_stated_weight_shapes():
    network = component("model", "cnn").build(stream(0))
    assert [tuple(p.shape) for k, p in network.named_parameters() if "weight" in k] == [
        (16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (10, 128),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("toy_mlp", {"dim": 0}), ("toy_mlp", {"hidden": -1}), ("toy_mlp", {"out": "x"}),
        ("mlp", {"hidden": [0]}), ("mlp", {"shape": []}), ("cnn", {"channels": []}),
        ("cnn", {"channels": [2, 2, 2, 2]}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, wrong):
    from hydra.errors import InstantiationException

    with pytest.raises(InstantiationException) as caught:
        component("model", name, **wrong)
    assert isinstance(caught.value.__cause__, ValidationError)
