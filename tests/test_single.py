"""Exact differences of one convolution of a residual network equal brute force.

This is T8 of docs/truths.md.
"""

import pytest
import torch
from conftest import studied

from sa.dataset.digits import Digits
from sa.estimator.cdg import CDG
from sa.estimator.ste import STE
from sa.flips.distinct import distinct
from sa.model.cnn import CNN
from sa.model.xnor_resnet18 import XnorResnet18
from sa.objective.prepare import prepare
from sa.params import flatten
from sa.quantizer.dorefa import Dorefa
from sa.quantizer.levels import Levels
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.quantizer.xnor import Xnor
from sa.types import Slots

FWBA, BWBA = Slots(Identity(), Sign()), Slots(Xnor(), Sign())
EPS = [1e-2, 0.1, 1.0]


def net(quantizer=FWBA, block="xnor", size=8, **settings):
    return XnorResnet18(
        quantizer=quantizer, shape=(1, size, size), init_channels=2, block=block, **settings
    )


def problem(model, *moving, seed=1, **settings):
    """Give the norms random running statistics, and gains of either sign."""
    settings = {"batchnorm": "running", "dataset": Digits(size=model.shape[1])} | settings
    p = prepare(studied(model=model, moving=moving, **settings), seed)
    g = torch.Generator().manual_seed(seed)
    for m in p.forward.norms.values():
        for v, middle in ((m.running_mean, 0), (m.weight.data, 1), (m.bias.data, 0)):
            v.copy_(middle + 0.7 * torch.randn(v.shape, generator=g, dtype=v.dtype))
    return p


def worst(fast, brute, eps):
    """Return the largest deviation by name, in units of the rounding error: the loss over eps."""
    return max(
        float((a[k] - b[k]).abs().max()) / max(1e-3 / e, float(b[k].abs().max()))
        for a, b, e in zip(fast, brute, eps, strict=True)
        for k in a
    )


def checked(p, rows, eps=EPS):
    """Assert that the fast differences equal brute force, and return them."""
    f = p.objective(p.batch(0).part(0, rows))
    fast, brute = (f.differences(p.params, eps, path) for path in ("fast", "brute"))
    assert (fast.path, brute.path) == ("fast", "brute")
    assert worst(fast.grads, brute.grads, eps) < 1e-11
    assert any(g.any() for g in fast.grads[-1].values())
    return fast


@pytest.mark.parametrize("layer", [1, -2])
def test_t8_fast_differences_equal_brute_force_where_sums_of_signs_cancel(layer):
    """With initial running statistics a sum of signs that is 0 is a tie; there are dozens."""
    task = studied(
        model=net(BWBA), moving=(layer,), batchnorm="running", dataset=Digits(size=8)
    )  # fmt: skip
    p, ties = prepare(task, 1), []
    acts = [m for k, m in p.network.named_modules() if k.endswith("act2")]
    hooks = [
        m.register_forward_hook(lambda m, x, y: ties.append(int((x[0] == 0).sum()))) for m in acts
    ]
    p.objective(p.batch(0).part(0, 3)).value(p.params)
    for h in hooks:
        h.remove()
    assert sum(ties) > 25
    checked(p, 3, [0.3])


LAYERS = {1: "patterns", 5: "patterns", 8: "suffixes", -2: "patterns", -1: "suffixes"}


@pytest.mark.parametrize("weights", ["identity", "xnor", "binary"])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_t8_fast_differences_equal_brute_force_for_every_kind_of_layer(layer, weights):
    """Layer 5 has stride 2; layers 8 and -1 end a block; no step follows layer -1."""
    quantize = {"identity": Identity(), "xnor": Xnor(), "binary": Xnor(scale="none")}[weights]
    p = problem(net(Slots(quantize, Sign()), size=16), layer)
    assert list(checked(p, 3, [0.02, 0.3]).paths.values()) == [LAYERS[layer]]


@pytest.mark.parametrize("quantizer", [FWBA, BWBA], ids=["fwba", "bwba"])
@pytest.mark.parametrize("layer", [1, 6, -2])
def test_t8_fast_differences_equal_brute_force_with_a_shortcut_around_every_convolution(
    layer, quantizer
):
    got = checked(problem(net(quantizer, "bireal"), layer), 4, [0.02, 0.3])
    assert list(got.paths.values()) == ["suffixes"]


def test_t8_fast_differences_equal_brute_force_for_shortcuts_the_stem_and_several_layers():
    p = problem(net(), "block3.shortcut.conv.weight", 2, "conv.weight", 15)
    assert sorted(checked(p, 3, [0.03, 0.3]).paths.values()) == ["patterns", *["suffixes"] * 3]


def test_t8_fast_differences_equal_brute_force_for_a_chain_of_quantized_weights():
    model = CNN(quantizer=BWBA, channels=(2, 3), pool="none", norm="batch", head="average")
    p = problem(model, "conv1.weight", "conv2.weight")
    assert sorted(checked(p, 5).paths.values()) == ["patterns", "suffixes"]


def test_t8_fast_differences_equal_brute_force_for_a_step_of_three_levels():
    checked(problem(net(Slots(Identity(), Levels(3))), 3), 4)


def test_t8_fast_differences_equal_brute_force_if_patterns_do_not_fit_in_a_table():
    p = problem(net(size=16), 1)
    checked(p, 2, [3.0])


@pytest.mark.parametrize("layer", [1, 8, -2])
def test_t8_fast_differences_equal_brute_force_bit_for_bit_on_dyadic_data(layer):
    """All numbers are small dyadic ones, and thousands lie exactly on a threshold."""
    g = torch.Generator().manual_seed(3)
    p = problem(net(outputs=16), layer, criterion="mse")

    def lattice(v, denominator):
        v.copy_(torch.randint(-2, 3, v.shape, generator=g).double() / denominator)

    for v in [*p.params.values(), *p.frozen.values()]:
        lattice(v, 1)  # only eps brings in halves, so products over eight blocks stay exact
    for m in p.forward.norms.values():
        m.weight.data.fill_(1.0)
        lattice(m.running_mean, 1)
        m.running_var.fill_(1.0 - m.eps)
        assert (m.running_var + m.eps == 1).all()
    batch = p.batch(0).part(0, 8)
    lattice(batch.inputs, 2)
    ties = []
    act = [m for m in p.network.modules() if type(m).__name__ == "Activation"]
    hooks = [
        m.register_forward_hook(lambda m, x, y: ties.append(int((x[0] == 0).sum()))) for m in act
    ]
    f = p.objective(batch)
    f.value(p.params)
    assert sum(ties) > 100
    for h in hooks:
        h.remove()
    eps = [0.5, 1.0]
    fast, brute = (f.differences(p.params, eps, path).grads for path in ("fast", "brute"))
    assert any(x.any() for x in fast[1].values())
    for a, b in zip(fast, brute, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("layer", [1, 8])
def test_less_memory_gives_the_same_differences(layer):
    whole, split = (problem(net(), layer, memory=m) for m in (1 << 27, 1 << 21))
    a, b = (checked_free(p, 12) for p in (whole, split))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(flatten(x), flatten(y), rtol=1e-12, atol=1e-13)


def checked_free(p, rows):
    return p.objective(p.batch(0).part(0, rows)).differences(p.params, EPS, "fast").grads


def test_differences_of_a_float32_network_are_computed_in_float64():
    a, b = (problem(net(), 8, dtype=d) for d in ("float32", "float64"))
    b.params = {k: v.double() for k, v in a.params.items()}
    for mine, theirs in ((a.frozen, b.frozen), (a.buffers, b.buffers)):
        for k in mine:
            theirs[k].copy_(mine[k])
    b.data.train.inputs.copy_(a.data.train.inputs)
    for x, y in zip(checked_free(a, 20), checked_free(b, 20), strict=True):
        assert flatten(x).dtype == torch.float32 and flatten(y).any()
        torch.testing.assert_close(flatten(x), flatten(y).float())


class Kept:
    """Keeps every intermediate state of a long computation."""

    def __init__(self, state=None):
        self.state, self.states = state or {}, []

    def take(self):
        return 0, self.state

    def keep(self, number, state):
        self.states.append(state)


def test_a_killed_computation_resumes_to_the_same_differences():
    p = problem(net(), 1, 2, memory=1 << 21)
    f = p.objective(p.batch(0).part(0, 40))
    f.partial = whole = Kept()
    want = f.differences(p.params, EPS)
    assert len(whole.states) >= 4
    for state in whole.states:
        f.partial = Kept(state)
        got = f.differences(p.params, EPS)
        assert (got.evals, got.paths) == (want.evals, want.paths)
        for a, b in zip(got.grads, want.grads, strict=True):
            assert all(torch.equal(a[k], b[k]) for k in a)


def test_t13_straight_through_behind_the_last_step_is_exact():
    """T13: no step follows layer -1, so the surrogate gradient is exact and is the limit of CDG."""
    p = problem(net(), -1)
    f = p.objective(p.batch(0).part(0, 64))
    ste = STE(surrogate="clipped")(f, p.params, {}, torch.Generator()).grad
    cdg = CDG(epsilon=1e-5, path="fast")(f, p.params, {}, torch.Generator()).grad
    a, b = flatten(ste), flatten(cdg)
    assert float(a @ b / (a.norm() * b.norm())) > 1 - 1e-6
    assert float(a @ b / (b @ b)) == pytest.approx(1, abs=1e-3)


def refusal(model, *moving, **settings):
    return problem(model, *moving, **settings).structure.why_no_fast_path


def test_a_network_without_fast_differences_gets_the_reason():
    assert "batchnorm=running" in refusal(net(), 1, batchnorm="batch", batch_size=8)
    assert "'block1.body.norm1.weight'" in refusal(net(), "block1.*")
    assert "'head.weight'" in refusal(net(), "head.weight")
    coupled = refusal(net(Slots(Dorefa(bits=2), Sign())), 1)
    assert "block1.body.conv1.weight" in coupled and "Dorefa" in coupled
    assert "Xnor" in refusal(net(Slots(Xnor(centre=True), Sign())), 1)
    assert refusal(net(), 1) is None
    p = problem(net(), 1, batchnorm="batch", batch_size=8)
    f = p.objective(p.batch(0).part(0, 4))
    with pytest.raises(ValueError, match="batchnorm=running"):
        f.differences(p.params, [0.1], "fast")
    assert f.differences(p.params, [0.1]).path == "brute"
    with pytest.raises(ValueError, match="path=brute"):
        CDG(path="fast").requires(p.structure)


@pytest.mark.parametrize("scale", ["channel", "none"])
def test_moves_of_xnor_weights_equal_quantizing_each_moved_weight(scale):
    g = torch.Generator().manual_seed(0)
    w = torch.randn((3, 2, 3, 3), generator=g, dtype=torch.float64)
    w[0, 0, 0, 0], w[1, 1, 1, 1] = 0.25, -0.25  # onto the threshold itself
    q = Xnor(scale=scale)
    for eps in (0.25, -0.25, 2.0):
        change, scale = q.moves(w, eps)
        for i in range(w.numel()):
            moved = w.clone()
            moved.view(-1)[i] += eps
            out = i // 18
            mine = q(w)
            signs = q.coded(w)[0].codes.clone()
            signs.view(-1)[i] += change.view(-1)[i]
            mine[out] = scale.view(-1)[i] * signs[out]
            torch.testing.assert_close(mine, q(moved), rtol=1e-14, atol=1e-14)
    assert Xnor(scale="tensor").moves is None and Xnor(centre=True).moves is None


def test_the_difference_of_a_binary_weight_is_zero_unless_it_can_flip():
    """With scale none a step flips a weight only where |w| < eps (or = eps, onto the tie)."""
    p = problem(net(Slots(Xnor(scale="none"), Sign())), -1)
    f = p.objective(p.batch(0).part(0, 30))
    (w,) = p.params.values()
    eps = float(w.abs().median())
    (g,) = f.differences(p.params, [eps], "fast").grads[0].values()
    assert not g[w.abs() > eps].any() and g[w.abs() < eps].any()


def test_distinct_rows_equal_those_of_a_python_set():
    g = torch.Generator().manual_seed(0)
    for m in (3, 8, 11):
        states = torch.randint(2, (500, m), generator=g) == 1
        states[::2, 2:] = False  # so that many rows are equal
        groups = torch.randint(5, (500,), generator=g)
        first, same = distinct(states, groups)
        there = {(*s, k) for s, k in zip(states.tolist(), groups.tolist(), strict=True)}
        assert len(first) == len(there) < 400
        assert torch.equal(states[first][same], states)
        assert torch.equal(groups[first][same], groups)
