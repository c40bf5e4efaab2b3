"""Tests that layers sum codes and multiply by the scale afterwards, so sums have no rounding error.

Results are compared with rational arithmetic (`fractions`) on the codes and scales of a quantizer.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from conftest import studied
from test_quantizers import make
from torch import nn

from sa import surrogate
from sa.estimator import _slopes
from sa.model.cnn import CNN
from sa.model.mlp import MLP
from sa.network import codes
from sa.network.layers import Activation, Conv, Linear
from sa.network.quantize import Rule, apply_quantizers
from sa.objective.prepare import prepare
from sa.objective.total import total
from sa.quantizer.dorefa import Dorefa
from sa.quantizer.levels import Levels
from sa.quantizer.lsq import LSQ
from sa.quantizer.sawb import Sawb
from sa.quantizer.sign import Sign
from sa.quantizer.ttq import TTQ
from sa.quantizer.twn import TWN
from sa.quantizer.uniform import Uniform
from sa.quantizer.xnor import Xnor
from sa.types import Batch, Slots, Splits

WEIGHTS = {
    "sign": lambda: Sign(),
    "binaryconnect": lambda: make("weight", "binaryconnect_sto"),
    "xnor_full": lambda: Xnor(),
    "xnor_detach": lambda: Xnor(scale_grad="detach"),
    "xnor_bireal": lambda: Xnor(scale_grad="bireal", scale="tensor"),
    "xnor_centre": lambda: Xnor(centre=True),
    "twn": lambda: TWN(),
    "ttq": lambda: TTQ(threshold=0.3),
    "dorefa_1": lambda: Dorefa(1),
    "dorefa_2": lambda: Dorefa(2),
    "sawb_2": lambda: Sawb(2),
    "sawb_3": lambda: Sawb(3),
    "lsq": lambda: LSQ(3),
    "uniform": lambda: Uniform(3),
    "uniform_channel": lambda: Uniform(3, granularity="channel"),
    "uniform_affine": lambda: Uniform(2, scheme="affine"),
    "uniform_stored": lambda: Uniform(3, train="fixed", eval="fixed"),
    "fixed_point": lambda: make("weight", "fixed_point", bits=3),
}
ACTIVATIONS = {
    "sign": lambda: Sign(),
    "ternary": lambda: Levels(3),
    "bits2": lambda: Levels(4),
    "bits4": lambda: Levels(16),
    "pact": lambda: make("activation", "pact", bits=2, start_at=0.7),
    "lsq": lambda: make("activation", "lsq", bits=3),
    "uniform": lambda: make("activation", "uniform", bits=3),
    "fixed_point": lambda: make("activation", "fixed_point", bits=3),
}
PAIRS = [(w, "sign") for w in WEIGHTS] + [("dorefa_2", a) for a in ACTIVATIONS if a != "sign"]
PAIRS += [("ttq", "bits2"), ("lsq", "lsq"), ("xnor_full", "pact")]


@dataclass(frozen=True)
class Whole:
    """A dataset of rows of whole numbers with whole targets."""

    shape: tuple[int, ...] = (8,)
    classes: None = None
    rows: int = 96
    outputs: int = 2

    def load(self, generator):
        draw = torch.randint(-2, 3, (2 * self.rows, *self.shape), generator=generator).double()
        goal = torch.randint(-1, 2, (2 * self.rows, self.outputs), generator=generator).double()
        parts = [Batch(draw[i::2], goal[i::2]) for i in range(2)]
        return Splits(*parts)


def problem(weight, activation="sign", hidden=(12, 12), **settings):
    """Return a network whose layers all have quantized weights and zero biases: many sums are 0."""
    slots = Slots(WEIGHTS[weight](), ACTIVATIONS[activation]())
    model = MLP(quantizer=slots, shape=(8,), hidden=hidden, outputs=2, every=True)
    return prepare(studied(model=model, dataset=Whole(), **settings), 3)


def rational(x):
    return [[Fraction(v) for v in row] for row in x.tolist()]


@torch.no_grad()
def exact(network, inputs):
    """Return (states of each activation, outputs) by rational arithmetic, rounded once a layer."""
    a, size, states = rational(inputs), Fraction(1), []
    for layer in network:
        if isinstance(layer, Linear):
            total_ = None
            for term in codes.of(layer.quantize, layer.weight.detach()):
                whole = [[Fraction(v) for v in row] for row in term.codes.tolist()]
                n = len(whole)
                scale = [1.0] if term.scale is None else term.scale.flatten().tolist()
                scale = [Fraction(s) for s in (scale * n if len(scale) == 1 else scale)]
                z = [
                    [s * size * sum(w * v for w, v in zip(ws, r, strict=True))
                     for s, ws in zip(scale, whole, strict=True)]
                    for r in a
                ]  # fmt: skip
                total_ = z if total_ is None else [
                    [p + q for p, q in zip(*both, strict=True)]
                    for both in zip(total_, z, strict=True)
                ]  # fmt: skip
            z = torch.tensor([[float(v) for v in r] for r in total_], dtype=torch.float64)
        elif isinstance(layer, Activation):
            y = layer(z).detach()
            states.append(y)
            step = layer.quantize.step_size() if isinstance(layer.quantize, codes.Stepped) else None
            step = 1.0 if step is None else float(step)
            size, a = Fraction(step), rational((y / step).round() if step != 1 else y)
    return states, z


def seen(p, inputs):
    """Return the outputs of the activations of the network."""
    return [s.detach() for s in p.forward.states(p.params, Batch(inputs, inputs))]


@pytest.mark.parametrize(("weight", "activation"), PAIRS)
def test_states_and_outputs_equal_rational_arithmetic(weight, activation):
    p = problem(weight, activation)
    batch = p.batch(0)
    states, outputs = exact(p.network, batch.inputs)
    for mine, law in zip(seen(p, batch.inputs), states, strict=True):
        torch.testing.assert_close(mine, law, rtol=1e-14, atol=1e-14)
    got = p.evaluation.outputs(p.params, batch.inputs)
    torch.testing.assert_close(got, outputs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("weight", "activation"), PAIRS)
def test_the_loss_has_the_same_bits_for_any_order_and_chunks_of_rows(weight, activation):
    p = problem(weight, activation)
    batch, n = p.batch(0), 96
    f = p.objective(batch)
    law = f.value(p.params)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    mixed = Batch(batch.inputs[order], batch.targets[order])
    assert torch.equal(p.objective(mixed).value(p.params), law)
    for rows in (13, 50):
        f.forward.numerics = replace(f.forward.numerics, memory=8 * p.forward.width * rows)
        assert f._chunk_sizes(1, f.forward.width) == (1, rows)
        assert torch.equal(f.value(p.params), law)
        assert torch.equal(f.value_and_grad(p.params)[0], law)
        twice = {k: torch.stack([v, v]) for k, v in p.params.items()}
        assert torch.equal(f.values(twice), law.expand(2))
    assert p.evaluation.evaluate(p.params)["train/loss"] == float(law)
    each = f.rows(p.params, batch)
    alone = torch.cat([f.rows(p.params, batch.part(i, i + 1)) for i in range(9)])
    assert torch.equal(each[:9], alone)


@pytest.mark.parametrize(("weight", "activation"), PAIRS)
def test_float32_and_float64_have_the_same_states(weight, activation):
    p = problem(weight, activation, dtype="float32")
    twin, inputs = p.forward.double(), p.batch(0).inputs
    exact_ = {k: v.double() for k, v in p.params.items()}
    states = twin.states(exact_, Batch(inputs.double(), inputs))
    for single, double in zip(seen(p, inputs), states, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-6)


_VALUES = """
import sys; sys.path[:0] = sys.argv[1:]
import json, torch
torch.set_num_threads(1)
from test_codes import PAIRS, problem
out = {}
for pair in PAIRS:
    p = problem(*pair)
    out[",".join(pair)] = float(p.objective(p.batch(0)).value(p.params)).hex()
print(json.dumps(out))
"""


def test_the_loss_does_not_depend_on_the_kernels_that_mkl_chooses():
    here = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-c", _VALUES, str(here), str(here.parent)],
        env=os.environ | {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for pair, value in json.loads(told.stdout).items():
        p = problem(*pair.split(","))
        assert float(p.objective(p.batch(0)).value(p.params)).hex() == value, pair


@pytest.mark.parametrize("weight", ["xnor_full", "twn", "ttq", "sawb_3", "uniform_channel", "lsq"])
@pytest.mark.parametrize("activation", ["sign", "bits2"])
def test_convolutions_scale_after_the_product(weight, activation):
    """The sums of a convolution are those of a linear layer on its patches."""
    slots = Slots(WEIGHTS[weight](), ACTIVATIONS[activation]())
    model = CNN(quantizer=slots, shape=(1, 4, 4), channels=(4, 4), norm="none", pool="none")
    network = model.build(torch.Generator().manual_seed(0)).eval()
    conv = network.get_submodule("conv2")
    assert isinstance(conv, Conv) and conv.source == (network.get_submodule("act1"),)
    levels = (
        torch.arange(4).double() / 3
        if activation == "bits2"
        else torch.tensor([-1.0, 1.0]).double()
    )
    pick = torch.randint(len(levels), (6, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    x = levels[pick]
    with torch.no_grad():
        z, step = conv(x), conv.source[0].quantize.step_size() if activation == "bits2" else 1.0
        patches = nn.functional.unfold((x / step).round(), 3, padding=1).mT.flatten(0, 1)
        law = 0.0
        for term in codes.of(conv.quantize, conv.weight):
            scale = 1.0 if term.scale is None else term.scale.flatten()
            law = law + (patches @ term.codes.flatten(1).T) * (scale * step)
        law = law.view(6, 16, -1).mT.reshape(z.shape)
        if conv.bias is not None:
            law = law + conv.bias.view(-1, 1, 1)
    assert torch.equal(z, law)


def _through_decoded(layer, x):
    """Return the layer's output with the scale inside the product, as the papers define it."""
    w = layer.quantize(layer.weight)
    if isinstance(layer, Conv):
        return nn.functional.conv2d(x, w, layer.bias, layer.stride, layer.padding)
    return nn.functional.linear(x, w, layer.bias)


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("weight", list(WEIGHTS))
def test_gradients_equal_those_of_the_decoded_weights(weight, conv):
    g = torch.Generator().manual_seed(0)
    q = WEIGHTS[weight]()
    layer = Conv(3, 4, 3, g, q, bias=True) if conv else Linear(6, 4, g, True, q)
    with torch.no_grad():
        layer.weight[0] = 0.0  # one channel is all zeros
    x = torch.randn((5, 3, 4, 4) if conv else (5, 6), generator=g, dtype=torch.float64)
    x.requires_grad_()
    wanted = [x, *layer.parameters()]
    weigh = torch.randn(layer(x).shape, generator=g, dtype=torch.float64)
    with surrogate.backward(_slopes.rule("poly")):
        mine = torch.autograd.grad((weigh * layer(x)).sum(), wanted)
        law = torch.autograd.grad((weigh * _through_decoded(layer, x)).sum(), wanted)
    for a, b in zip(mine, law, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    assert mine[1].any()


@pytest.mark.parametrize("weight", ["ttq", "xnor_bireal"])
def test_a_layer_of_zero_weights_has_a_gradient(weight):
    g = torch.Generator().manual_seed(0)
    layer = Linear(6, 4, g, False, WEIGHTS[weight]())
    layer.weight.data.zero_()
    layer.quantize = WEIGHTS[weight]() if weight == "xnor_bireal" else TTQ().build(layer.weight)
    x = torch.randn(5, 6, generator=g, dtype=torch.float64)
    with surrogate.backward(_slopes.rule("identity")):
        (mine,) = torch.autograd.grad(layer(x).sum(), layer.weight)
        (law,) = torch.autograd.grad(_through_decoded(layer, x).sum(), layer.weight)
    torch.testing.assert_close(mine, law)
    assert mine.any()


@pytest.mark.parametrize("activation", ["bits2", "pact", "lsq", "uniform"])
def test_gradients_reach_a_step_size_that_multiplies_after_the_product(activation):
    p = problem("dorefa_2", activation, hidden=(12,))
    x = torch.randn(96, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = p.objective(Batch(x, p.batch(0).targets))  # sums of real numbers are not on a threshold
    with surrogate.backward(_slopes.rule("identity")):
        mine = f.value_and_grad(p.params)[1]
        for m in p.network.modules():
            if isinstance(m, Linear):
                m.source = ()
                m.quantize = Inside(m.quantize)
        law = f.value_and_grad(p.params)[1]
    for name in law:
        torch.testing.assert_close(mine[name], law[name], rtol=1e-9, atol=1e-12)


class Inside:
    """A quantizer without codes, so its scale stays inside the product."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, w):
        return self.inner(w)


def test_relaxed_states_are_divided_and_not_rounded():
    """A relaxed state may lie between two levels; it is divided by the step and not rounded."""
    x = torch.tensor([1 / 3, 0.4, 2 / 3 + 1e-9, 1.0], dtype=torch.float64)
    got = codes.counts(x, 1 / 3)
    assert got[0] == 1 and got[3] == 3
    torch.testing.assert_close(got[1:3], 3 * x[1:3], rtol=1e-15, atol=0)


@pytest.mark.parametrize("weight", ["xnor_full", "twn", "lsq", "sawb_3"])
def test_a_patched_network_scales_after_the_product(weight):
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Linear(8, 12, bias=False), nn.Conv1d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(36, 2)
    ).double()
    rules = [Rule(k, WEIGHTS[weight](), Sign()) for k in "01"] + [Rule("3", WEIGHTS[weight]())]
    patched = apply_quantizers(plain, rules)
    x = torch.randint(-1, 2, (64, 1, 8), generator=g).double()
    with torch.no_grad():
        own = [layer.parametrizations.weight for layer in (patched[0], patched[3])]
        (first,), (last,) = (codes.of(w[0].quantize, w.original) for w in own)
        whole = x @ first.codes.T
        assert (whole == 0).any()
        assert torch.equal(patched[0](x), Sign()(whole * first.scale.flatten()))
        h = Sign()(torch.randn(64, 36, generator=g, dtype=torch.float64))
        law = (h @ last.codes.T) * last.scale.flatten() + patched[3].bias
        assert torch.equal(patched[3](h), law)
        order = torch.randperm(64, generator=g)
        assert torch.equal(patched(x[order]), patched(x)[order])


def test_the_quantized_view_has_the_loss_of_the_network():
    for weight, activation in (("xnor_full", "sign"), ("sawb_3", "bits2"), ("lsq", "lsq")):
        p = problem(weight, activation)
        f = p.objective(p.batch(0))
        whole, point = f.opened(p.params)
        assert float(whole.value(point)) == pytest.approx(float(f.value(p.params)), rel=1e-14)


@pytest.mark.parametrize("weight", ["xnor_full", "twn", "uniform", "sawb_3", "dorefa_1"])
def test_scaling_all_weights_up_changes_no_state(weight):
    """Scaling the weights changes their scale and not their codes, so sums of 0 stay 0."""
    p = problem(weight)
    batch = p.batch(0)
    before = seen(p, batch.inputs)
    moved = {k: 1.01 * v for k, v in p.params.items()}
    after = p.forward.states(moved, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_totals_do_not_depend_on_order_and_are_exact_for_whole_numbers():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5000, generator=g, dtype=torch.float64).exp() * 10 ** torch.linspace(
        -8, 8, 5000, dtype=torch.float64
    )
    law = torch.tensor([float(sum(map(Fraction, row))) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(total(x), law, rtol=3e-16, atol=0)
    for _ in range(5):
        assert torch.equal(total(x[:, torch.randperm(5000, generator=g)]), total(x))
    whole = torch.randint(-9, 10, (4000,), generator=g).double()
    assert total(whole) == whole.sum() and total(whole / 8) == whole.sum() / 8
    for odd in ([float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]):
        row = torch.tensor(odd, dtype=torch.float64)
        torch.testing.assert_close(total(row), row.sum(), equal_nan=True)


def test_a_scale_along_the_inputs_stays_inside_the_product():
    """Such scales do not belong to an output, so the codes are the quantized weights themselves."""
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for q in (Uniform(3, granularity="group:3"), Uniform(3, granularity="channel", axis=1)):
        (term,) = q.coded(w)
        assert term.scale is None and torch.equal(term.codes, q(w))
    assert replace(Uniform(3), granularity="channel").coded(w)[0].scale.shape == (4, 1)
