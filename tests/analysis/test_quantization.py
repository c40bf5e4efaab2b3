"""Tests of quantization error and cost against closed forms and published counts."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import component, studied

from sa.analysis.cost import Cost
from sa.analysis.quant_error import QuantError, split
from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.model.mlp import MLP
from sa.model.toy_mlp import ToyMLP
from sa.network.traits import traits
from sa.objective.function import from_function
from sa.objective.numerics import Numerics
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.quantizer.fixed_point import FixedPoint
from sa.quantizer.levels import Levels
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.quantizer.twn import TWN
from sa.quantizer.uniform import Uniform
from sa.quantizer.xnor import Xnor
from sa.types import Batch, Slots, Splits

F64 = torch.float64
RULER = Uniform(granularity="channel", scheme="affine")


def measured(x, q, axis=0):
    return split(x, q(x), traits(q).granularity, axis)


def look(analysis, problem):
    f = problem.objective(problem.batch(0))
    return analysis(f, problem.params, None, torch.Generator())


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_mse_of_a_grid_on_uniform_data_is_a_twelfth_of_the_squared_step(bits):
    x = torch.linspace(-1, 1, 200_001, dtype=F64)
    told = measured(x, Uniform(bits))
    step = 2 / (2**bits - 2)
    assert told["mse"] == pytest.approx(step**2 / 12, rel=0.01)
    assert told["sqnr"] == pytest.approx(10 * math.log10((1 / 3) / (step**2 / 12)), abs=0.05)
    assert told["clipping"] == told["clipped"] == 0.0 and told["levels"] == 2**bits - 1


def test_4_bits_of_a_gaussian_have_the_known_error_for_both_ranges(generator):
    x = torch.randn(1_000_000, generator=generator, dtype=F64)
    best, widest = (measured(x, FixedPoint(4, range=r)) for r in ("mse", "max"))
    assert best["mse"] == pytest.approx(0.021, abs=0.001)
    assert widest["mse"] == pytest.approx(0.083, abs=0.002)
    assert widest["clipping"] == 0.0 and widest["rounding"] == 1.0


def test_clipping_error_of_a_gaussian_is_the_integral_over_its_tails(generator):
    x = torch.randn(1_000_000, generator=generator, dtype=F64)
    told = measured(x, Uniform(4, range="k_sigma", reach=2.0))  # [-2, 2], step 2/7
    t, level = 2 + 1 / 7, 2.0
    phi, q = math.exp(-t * t / 2) / math.sqrt(2 * math.pi), math.erfc(t / 2**0.5) / 2
    law = 2 * (t * phi + q - 2 * level * phi + level**2 * q)  # E (|x| - 2)^2 1[|x| > t]
    assert told["clipping"] * told["mse"] == pytest.approx(law, rel=0.03)
    assert told["clipped"] == pytest.approx(2 * q, rel=0.02)
    assert told["clipping"] + told["rounding"] == pytest.approx(1)


def test_mse_of_signs_of_a_gaussian_is_its_closed_form(generator):
    """E (|x| - 1)^2 = 2 - 2 sqrt(2/pi), and 1 - 2/pi at the best scale; |x| > 2 is clipped."""
    x = torch.randn(1, 400_000, generator=generator, dtype=F64)
    plain, scaled = measured(x, Sign()), measured(x, Xnor())
    assert plain["mse"] == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), rel=0.01)
    assert scaled["mse"] == pytest.approx(1 - 2 / math.pi, rel=0.01)
    assert plain["clipped"] == pytest.approx(math.erfc(2 / 2**0.5), rel=0.05)
    assert plain["levels"] == 2.0 and 0 < plain["clipping"] < 1


def test_a_constant_tensor_and_a_zero_tensor_have_no_error():
    told = measured(torch.full((3, 4), 0.7, dtype=F64), Uniform(4))
    assert told["mse"] == pytest.approx(0, abs=1e-30) and told["levels"] == 1.0
    told = measured(torch.zeros(3, 4, dtype=F64), TWN())
    assert told["mse"] == 0.0 and told["sqnr"] == math.inf and told["clipping"] == 0.0


def test_levels_are_counted_within_each_group():
    x = torch.linspace(-1, 1, 64, dtype=F64) * torch.tensor([[1.0], [100.0]], dtype=F64)
    assert measured(x, Uniform(3, granularity="channel"))["levels"] == 7.0
    assert measured(x, Uniform(3, granularity="group:32"))["levels"] == pytest.approx(4.0, abs=0.6)
    assert measured(x, Uniform(3))["levels"] == 7.0
    assert measured(x, Xnor())["levels"] == 2.0  # +-alpha with one alpha for each channel


def test_bits_needed_grow_by_1_for_6_decibels():
    """For uniform data b bits on an affine grid have an SQNR of 20 log10(2^b - 1) dB."""
    x = torch.linspace(-1, 1, 100_001, dtype=F64)[None] * torch.tensor([[1.0], [7.0]], dtype=F64)
    for sqnr in (15.0, 29.0, 31.0, 48.0):
        law = next(b for b in range(2, 17) if 20 * math.log10(2**b - 1) >= sqnr)
        assert QuantError(RULER, sqnr=sqnr)._needed(x) == [law, law], sqnr
    assert QuantError(RULER, most=3)._needed(x) == [4.0, 4.0]  # 3 bits do not suffice
    assert QuantError(RULER)._needed(torch.zeros(1, 5, dtype=F64)) == [2.0]


def test_every_quantized_tensor_of_a_network_is_reported():
    both = Slots(Uniform(3), Levels(4))
    p = prepare(Task(model=ToyMLP(quantizer=both, dim=4), dataset=Gaussian(dim=4, n=64)), 0)
    out = look(QuantError(RULER), p)
    layers = {k.split("/")[1] for k in out if k.count("/") == 2}
    acts = {f"act{i}.activation" for i in (1, 2, 3)}
    assert layers == acts | {"fc2.weight", "fc3.weight"}
    w, x = p.params["fc2.weight"], p.batch(0).inputs @ p.params["fc1.weight"].T
    law = float((Uniform(3)(w) - w).square().mean())
    assert out["quant_error/fc2.weight/mse"] == pytest.approx(law)
    law = float((Levels(4)(x) - x).square().mean())
    assert out["quant_error/act1.activation/mse"] == pytest.approx(law)
    assert len(out["quant_error/act1.activation/needed"]) == 4
    worst = out["quant_error/worst"]
    assert (
        out["quant_error/least"]
        == out[f"quant_error/{worst}/sqnr"]
        == min(v for k, v in out.items() if k.endswith("/sqnr"))
    )


def test_a_network_without_quantizers_is_refused():
    p = Task(model=ToyMLP(quantizer=Slots(Identity(), Identity()), dim=3), dataset=Gaussian(dim=3))
    with pytest.raises(ValueError, match="neither weights nor activations.*quantizer=fixed8"):
        QuantError(RULER).requires(p.structure())


# Cost


def slots(weight, activation):
    parts = (("weight", weight), ("activation", activation))
    return {"_target_": "sa.types.Slots"} | {k: {"_target_": f"sa.quantizer.{v}"} for k, v in parts}


def costs(name, **settings):
    model = component("model", name, **settings)
    rows = Batch(torch.randn(4, *model.shape, dtype=F64), torch.arange(4))
    data = Digits(size=model.shape[-1])
    return look(
        Cost(),
        prepare(studied(model=model, dataset=data, batchnorm="running"), 0, Splits(rows, rows)),
    )


def test_cost_of_a_fully_connected_network_is_counted_exactly():
    both = Slots(Uniform(4), Levels(4))
    p = prepare(Task(model=MLP(quantizer=both, hidden=(32, 16)), dataset=Digits()), 0)
    out = look(Cost(full=16), p)
    assert out["cost/macs"] == 64 * 32 + 32 * 16 + 16 * 10 == out["cost/flops"] / 2
    assert out["cost/bops"] == 64 * 32 * 16 * 16 + 32 * 16 * 4 * 2 + 16 * 10 * 16 * 2
    assert out["cost/parameters"] == 65 * 32 + 33 * 16 + 17 * 10
    assert out["cost/bits"] == 16 * (65 * 32 + 16 + 17 * 10) + 4 * 32 * 16
    assert (out["cost/fc2/weight_bits"], out["cost/fc2/input_bits"]) == (4, 2)


def test_costs_do_not_depend_on_which_statistics_batchnorm_takes():
    model = component(
        "model", "xnor_resnet18", shape=[1, 8, 8], init_channels=1
    )  # ends in 1x1 maps
    task = studied(model=model, dataset=Digits(), batch_size=4)
    batch, running = (
        look(Cost(), prepare(replace(task, numerics=Numerics(batchnorm=b)), 0))
        for b in ("batch", "running")
    )
    assert batch == running and batch["cost/head/macs"] == 80


@pytest.mark.parametrize("channels", [(4, 16), (8, 8)])
def test_cost_of_two_convolutions_is_its_formula(channels):
    a, b = channels
    out = costs("cnn2", shape=[1, 32, 32], channels=[a, b])
    # the network has 5x5 kernels with biases, two BatchNorms and a head on 8x8 maps
    assert out["cost/parameters"] == 26 * a + 2 * a + b * (25 * a + 1) + 2 * b + (64 * b + 1) * 10
    assert out["cost/conv1/macs"] == 25 * a * 32**2 and out["cost/conv2/macs"] == 25 * a * b * 16**2
    assert out["cost/macs"] == 25 * a * 32**2 + 25 * a * b * 16**2 + 640 * b
    assert out["cost/bops"] == 32 * 32 * out["cost/macs"]


def test_cost_of_the_xnor_resnet_counts_its_16_binary_convolutions():
    binary = slots("xnor.Xnor", "sign.Sign")
    out = costs("xnor_resnet18", quantizer=binary, shape=[1, 32, 32])
    assert out["cost/parameters"] == 176_418 - 2 * 8 * 9  # a grey stem
    inner = [k for k in out if k.endswith("weight_bits") and out[k] == 1]
    assert len(inner) == 16 and all(out[k.replace("weight", "input")] == 1 for k in inner)
    # 4 stages of four 3x3 convolutions on maps of 32, 16, 8 and 4; the first of a stage halves them
    law = 4 * 9 * 8 * 8 * 32**2
    for w, side in ((16, 16), (32, 8), (64, 4)):
        law += (9 * w * w // 2 + 3 * 9 * w * w) * side**2
    assert sum(out[k.replace("weight_bits", "macs")] for k in inner) == law


def test_a_layer_that_reads_averaged_signs_has_full_precision_inputs():
    """The mean of four signs has five values, so the next layer reads full precision."""
    signs = slots("none.Identity", "sign.Sign")
    for pool, bits in (("none", 1), ("average", 1)):
        out = costs("cnn", quantizer=signs, channels=[2, 3], pool=pool, head="flatten")
        assert out["cost/head/input_bits"] == bits
    out = costs("cnn", quantizer=signs, channels=[2, 3], head="average")
    assert out["cost/head/input_bits"] == 32


def test_a_plain_function_has_no_cost():
    f = from_function(lambda p: p["w"].sum())
    with pytest.raises(ValueError, match="no layers"):
        Cost()(f, {"w": torch.ones(2)}, None, torch.Generator())
