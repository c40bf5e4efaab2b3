"""Tests of exact differences against brute force (T8 of docs/truths.md)."""

import pytest
import torch
from conftest import studied

from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.flips import chain
from sa.flips import differences as flips
from sa.model.cnn import CNN
from sa.model.mlp import MLP
from sa.model.toy_mlp import ToyMLP
from sa.network.structure import Link, Step
from sa.objective.criterion import ce, mse
from sa.objective.prepare import prepare
from sa.objective.task import Task
from sa.params import flatten
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Batch, Slots

FWBA = Slots(Identity(), Sign())
EPS = [1e-3, 1e-2, 0.1, 1.0]


def both(problem, epsilons, batch=None):
    f = problem.objective(batch or problem.batch(0))
    fast, brute = (f.differences(problem.params, epsilons, path) for path in ("fast", "brute"))
    assert (fast.path, brute.path) == ("fast", "brute")
    return fast.grads, brute.grads


def worst(fast, brute, eps):
    """Return the largest difference of the two, relative to their size or to rounding over eps."""
    return max(
        float((a[k] - b[k]).abs().max()) / max(1e-3 / e, float(b[k].abs().max()))
        for a, b, e in zip(fast, brute, eps, strict=True)
        for k in a
    )


@pytest.mark.parametrize("out", [1, 5])
@pytest.mark.parametrize("hidden", [1, 2, 3, 5])
def test_t8_fast_differences_equal_brute_force_in_every_layer_for_several_epsilons(hidden, out):
    model = ToyMLP(quantizer=FWBA, dim=5, hidden=hidden, out=out)
    p = prepare(Task(model=model, dataset=Gaussian(dim=5, n=200)), hidden)
    assert worst(*both(p, EPS), EPS) < 1e-12


def test_t8_fast_differences_of_biases_and_cross_entropy_equal_brute_force():
    p = prepare(Task(model=MLP(quantizer=FWBA, hidden=(6, 5)), dataset=Digits()), 0)
    batch = p.batch(0).part(0, 60)
    p.params["fc1.bias"] += 0.1 * torch.randn(6, dtype=torch.float64)
    p.params["fc2.bias"] += 0.5  # with inputs of +-1 many sums are close to a threshold
    assert worst(*both(p, [0.05, 0.5], batch), [0.05, 0.5]) < 1e-12


def test_t8_only_moving_parameters_get_differences():
    model = ToyMLP(quantizer=FWBA, dim=4, hidden=3)
    p = prepare(Task(model=model, dataset=Gaussian(dim=4, n=100), moving=("fc2.*",)), 0)
    fast, brute = both(p, EPS)
    assert list(fast[0]) == ["fc2.weight"] and worst(fast, brute, EPS) < 1e-12


def test_splitting_rows_into_blocks_does_not_change_the_differences():
    model = ToyMLP(quantizer=FWBA, dim=4)
    whole, split = (
        prepare(studied(model=model, dataset=Gaussian(dim=4, n=300), memory=m), 0)
        for m in (1 << 26, 20_000)
    )
    a, b = (p.objective(p.batch(0)).differences(p.params, EPS).grads for p in (whole, split))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(flatten(x), flatten(y), rtol=1e-12, atol=1e-13)


CNNS = [
    # pool, norm, head, channels -> the computation that each layer uses
    ("average", "none", "flatten", (3, 4), ["patterns", "patterns", "output"]),
    ("average", "batch", "average", (3, 4), ["patterns", "patterns", "output"]),
    ("none", "batch", "flatten", (2, 3), ["patterns", "patterns", "output"]),
    ("none", "none", "average", (3, 4), ["patterns", "counting", "output"]),
    ("none", "batch", "average", (2, 3, 4), ["patterns", "patterns", "counting", "output"]),
]


@pytest.mark.parametrize("criterion", ["mse", "ce"])
@pytest.mark.parametrize(("pool", "norm", "head", "channels", "ways"), CNNS)
def test_t8_fast_differences_of_convolutions_equal_brute_force(
    pool, norm, head, channels, ways, criterion
):
    """Every computation for convolutions is used, and gains of BatchNorm have both signs."""
    model = CNN(quantizer=FWBA, channels=channels, pool=pool, norm=norm, head=head)
    p = prepare(studied(model=model, dataset=Digits(), criterion=criterion, batchnorm="running"), 0)
    g = torch.Generator().manual_seed(0)
    for m in p.forward.norms.values():
        for v in (m.running_mean, m.weight.data, m.bias.data):
            v.copy_(torch.randn(v.shape, generator=g, dtype=v.dtype))
        m.running_var *= 1.7
    f = p.objective(p.batch(0).part(0, 10))
    eps = [1e-2, 0.1, 1.0]
    fast, brute = (f.differences(p.params, eps, path) for path in ("fast", "brute"))
    assert worst(fast.grads, brute.grads, eps) < 1e-12
    assert list(fast.paths.values()) == ways


def test_t8_fast_differences_with_batchnorm_between_layers_equal_brute_force():
    model = MLP(quantizer=FWBA, hidden=(6, 5), norm="batch")
    p = prepare(studied(model=model, dataset=Digits(), batchnorm="running"), 1)
    for m in p.forward.norms.values():
        m.weight.data[::2] *= -0.7  # no eps moves a gain to 0, where every row would tie
        m.running_mean += 0.3
    assert worst(*both(p, [0.05, 0.5], p.batch(0).part(0, 60)), [0.05, 0.5]) < 1e-12


def test_splitting_feature_maps_does_not_change_the_differences():
    model = CNN(quantizer=FWBA, channels=(3, 4), pool="none", norm="none", head="average")
    whole, split = (
        prepare(studied(model=model, dataset=Digits(), memory=m), 0) for m in (1 << 26, 320_000)
    )
    a, b = (p.objective(p.batch(0).part(0, 30)).differences(p.params, EPS) for p in (whole, split))
    for x, y in zip(a.grads, b.grads, strict=True):
        torch.testing.assert_close(flatten(x), flatten(y), rtol=1e-12, atol=1e-13)


def test_differences_in_float32_agree_with_float64_to_a_thousandth_of_the_norm():
    model = ToyMLP(quantizer=FWBA, dim=8, hidden=2, out=8)
    p = prepare(Task(model=model, dataset=Gaussian(dim=8, n=500)), 0)
    s, batch = p.structure, p.batch(0)
    single = {k: v.float() for k, v in p.params.items()}
    exact, rough = (
        flips.differences(s.links, at, list(at), b, s.criterion, True, [0.1], 500)[0][0]
        for at, b in ((p.params, batch), (single, batch.to(torch.float32)))
    )
    off = flatten(exact) - flatten(rough).double()
    assert 0 < float(off.norm() / flatten(exact).norm()) < 1e-3


@pytest.mark.parametrize("step", ["sign", "ternary"])
@pytest.mark.parametrize("name", ["a", "b", "b.bias"])
def test_the_profile_is_the_loss_along_a_coordinate(name, step):
    """The loss between two jumps is the stated one, also at shift 0, which is a tie."""
    g = torch.Generator().manual_seed(3)
    links = [Link("a", None, STEPS[step]), Link("b", "b.bias", STEPS[step]), Link("c")]
    params = {n: lattice((4, 4), g) for n in "abc"} | {"b.bias": lattice((4,), g)}
    batch = Batch(lattice((40, 4), g), lattice((40, 4), g))
    at = (2,) if name == "b.bias" else (2, 1)
    every = flips.profiles(links, params, [name], batch, mse, True, 1.0, 16)
    where, losses = next((one.shifts, one.losses) for one in every if one.at == at)
    assert len(where) > 10 and len(losses) == len(where) + 1 and where.diff().min() >= 0

    def loss(shift):
        w = params[name].clone()
        w[at] += shift
        return chain.run(links, params | {name: w}, batch, mse, True).losses.mean()

    edges = torch.cat([torch.tensor([-1.0]), where, torch.tensor([1.0])]).double()
    for k in range(len(losses)):
        if edges[k + 1] > edges[k]:
            torch.testing.assert_close(loss((edges[k] + edges[k + 1]) / 2), losses[k])
    eps = 0.37  # no jump is at 0.37, so the profile gives the difference
    ends = [losses[int((where <= s * eps).sum())] for s in (1, -1)]
    got = flips.differences(links, params, [name], batch, mse, True, [eps], 40)[0][0]
    torch.testing.assert_close(got[name][at], (ends[0] - ends[1]) / (2 * eps))


def test_only_layers_before_a_step_have_profiles():
    p = prepare(Task(model=ToyMLP(quantizer=FWBA, dim=4), dataset=Gaussian(dim=4, n=50)), 0)
    names = {one.name for one in p.objective(p.batch(0)).profiles(p.params, 0.5)}
    assert names == set(p.params) - {"head.weight"}


STEPS = {
    "sign": Step((0.0,), (-1.0, 1.0)),
    "binary01": Step((0.0,), (0.0, 1.0)),
    "ternary": Step((-0.5, 0.5), (-1.0, 0.0, 1.0)),
    "2-bit": Step((0.25, 0.75, 1.25), (0.0, 0.5, 1.0, 1.5)),
}


def lattice(shape, generator, denominator=4):
    """Return small dyadic numbers; they are exact in floating point, so ties are real ties."""
    return torch.randint(-4, 5, shape, generator=generator).double() / denominator


@pytest.mark.parametrize("criterion", [mse, ce])
@pytest.mark.parametrize("step", list(STEPS))
def test_t8_differences_of_exact_ties_equal_brute_force_bit_for_bit(step, criterion):
    g = torch.Generator().manual_seed(5)
    names = ["a", "b", "c"]
    links = [Link(n, f"{n}.bias" if n == "b" else None, STEPS[step]) for n in names[:2]]
    links.append(Link("c", None, None))
    params = {n: lattice((4, 4), g) for n in names}
    params["b.bias"] = lattice((4,), g)
    x = lattice((64, 4), g)
    targets = torch.randint(0, 4, (64,), generator=g) if criterion is ce else lattice((64, 4), g)
    eps = [0.25, 0.5, 1.0]
    fast, _, _ = flips.differences(
        links, params, list(params), Batch(x, targets), criterion, criterion is mse, eps, 50
    )

    def loss(p):
        return chain.run(links, p, Batch(x, targets), criterion, False).losses.sum()

    ties = 0
    for e, grads in zip(eps, fast, strict=True):
        for name, w in params.items():
            brute = torch.zeros_like(w)
            for i in range(w.numel()):
                moved = []
                for s in (e, -e):
                    v = w.clone()
                    v.view(-1)[i] += s
                    moved.append(loss(params | {name: v}))
                brute.view(-1)[i] = (moved[0] - moved[1]) / (2 * e * 64)
            if criterion is mse and name != "c":  # all numbers are dyadic, so no bit may differ
                assert torch.equal(grads[name], brute), (name, e)
            torch.testing.assert_close(grads[name], brute, rtol=1e-12, atol=1e-13)
        view = chain.run(links, params, Batch(x, targets), criterion, False)
        ties += sum(
            int((layer.pre == t).sum()) for layer in view.layers[:2] for t in STEPS[step].thresholds
        )
    assert ties > 50  # many units are exactly on a threshold


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("step", ["sign", "ternary", "2-bit"])
def test_t8_differences_of_exact_ties_in_convolutions_equal_brute_force_bit_for_bit(step, average):
    g = torch.Generator().manual_seed(6)
    links = [Link("a", None, STEPS[step], 1, pool=2), Link("b", "b.bias", STEPS[step], 1)]
    links.append(Link("c", average=average))
    params = {"a": lattice((2, 1, 3, 3), g), "b": lattice((3, 2, 3, 3), g, 8)}
    params |= {"b.bias": lattice((3,), g), "c": lattice((2, 3 if average else 48), g)}
    batch = Batch(lattice((8, 1, 8, 8), g), lattice((8, 2), g))
    eps = [0.25, 0.5]
    fast, _, _ = flips.differences(links, params, list(params), batch, mse, True, eps, 5, 4000)

    for e, grads in zip(eps, fast, strict=True):
        for name, w in params.items():
            brute = torch.zeros_like(w)
            for i in range(w.numel()):
                moved = []
                for s in (e, -e):
                    v = w.clone()
                    v.view(-1)[i] += s
                    view = chain.run(links, params | {name: v}, batch, mse, True)
                    moved.append(view.losses.sum())
                brute.view(-1)[i] = (moved[0] - moved[1]) / (2 * e * 8)
            if name == "c":
                torch.testing.assert_close(grads[name], brute, rtol=1e-12, atol=1e-13)
            else:
                assert torch.equal(grads[name], brute), (name, e)
    view = chain.run(links, params, batch, mse, True)
    ties = [int((v.pre == t).sum()) for v in view.layers[:2] for t in v.link.step.thresholds]
    assert sum(ties) > 10, ties


def test_a_step_takes_the_upper_level_on_its_threshold():
    z = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert chain.stepped(z, STEPS["ternary"]).tolist() == [-1, 0, 0, 1, 1]
    assert chain.stepped(z, STEPS["sign"]).tolist() == [-1, -1, 1, 1, 1]


def test_the_reason_for_no_chain_names_the_layer():
    link = Link("fc1.weight")
    assert "fc1.weight" in chain.why_no_fast_differences([link, Link("head.weight")])
    assert chain.why_no_fast_differences([link]) is None
    assert chain.why_no_fast_differences([Link("a", step=STEPS["sign"])]) is not None
    conv = Link("conv1.weight", padding=1)
    assert "conv1.weight" in chain.why_no_fast_differences([conv])


def test_evals_grow_with_epsilon_and_stay_below_brute_force():
    p = prepare(Task(model=ToyMLP(quantizer=FWBA, dim=8), dataset=Gaussian(dim=8, n=500)), 0)
    f = p.objective(p.batch(0))
    small, large = (f.differences(p.params, [e]).evals for e in (0.01, 1.0))
    assert 3 <= small < large < f.differences(p.params, [0.01], "brute").evals
