"""Exact differences against brute force: truth T8."""

import pytest
import torch

from sa import flips
from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.model.mlp import MLP
from sa.model.toy_mlp import ToyMLP
from sa.objective import ce, mse
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.task import Task
from sa.types import Batch, Link, Slots, Step, flatten

FWBA = Slots(Identity(), Sign())
EPS = [1e-3, 1e-2, 0.1, 1.0]


def both(problem, epsilons, batch=None):
    f = problem.objective(batch or problem.batch(0))
    fast, brute = (f.differences(problem.params, epsilons, path) for path in ("fast", "brute"))
    assert (fast.path, brute.path) == ("fast", "brute")
    return fast.grads, brute.grads


def worst(fast, brute, eps):
    """Largest difference by name, relative to what rounding leaves: the loss' scale over eps."""
    return max(
        float((a[k] - b[k]).abs().max()) / max(1e-3 / e, float(b[k].abs().max()))
        for a, b, e in zip(fast, brute, eps, strict=True)
        for k in a
    )


@pytest.mark.parametrize("out", [1, 5])
@pytest.mark.parametrize("hidden", [1, 2, 3, 5])
def test_t8_every_layer_and_eps_at_once(hidden, out):
    model = ToyMLP(quantizer=FWBA, dim=5, hidden=hidden, out=out)
    p = Task(model=model, dataset=Gaussian(dim=5, n=200)).prepare(hidden)
    assert worst(*both(p, EPS), EPS) < 1e-12


def test_t8_biases_and_cross_entropy_on_digits():
    p = Task(model=MLP(quantizer=FWBA, hidden=(6, 5)), dataset=Digits()).prepare(0)
    batch = p.batch(0).part(0, 60)
    p.params["fc1.bias"] += 0.1 * torch.randn(6, dtype=torch.float64)
    p.params["fc2.bias"] += 0.5  # on a half-integer lattice with +-1 inputs: many near ties
    assert worst(*both(p, [0.05, 0.5], batch), [0.05, 0.5]) < 1e-12


def test_t8_only_what_moves():
    model = ToyMLP(quantizer=FWBA, dim=4, hidden=3)
    p = Task(model=model, dataset=Gaussian(dim=4, n=100), moving=("fc2.*",)).prepare(0)
    fast, brute = both(p, EPS)
    assert list(fast[0]) == ["fc2.weight"] and worst(fast, brute, EPS) < 1e-12


def test_row_blocks_change_nothing():
    model = ToyMLP(quantizer=FWBA, dim=4)
    whole, split = (
        Task(model=model, dataset=Gaussian(dim=4, n=300), memory=m).prepare(0)
        for m in (1 << 26, 20_000)
    )
    a, b = (p.objective(p.batch(0)).differences(p.params, EPS).grads for p in (whole, split))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(flatten(x), flatten(y), rtol=1e-12, atol=1e-13)


STEPS = {
    "sign": Step((0.0,), (-1.0, 1.0)),
    "binary01": Step((0.0,), (0.0, 1.0)),
    "ternary": Step((-0.5, 0.5), (-1.0, 0.0, 1.0)),
    "2-bit": Step((0.25, 0.75, 1.25), (0.0, 0.5, 1.0, 1.5)),
}


def lattice(shape, generator, denominator=4):
    """Small dyadic numbers, exact in floating point: ties at thresholds are real ties."""
    return torch.randint(-4, 5, shape, generator=generator).double() / denominator


@pytest.mark.parametrize("criterion", [mse, ce])
@pytest.mark.parametrize("step", list(STEPS))
def test_t8_ties_are_exact_on_dyadic_data(step, criterion):
    g = torch.Generator().manual_seed(5)
    names = ["a", "b", "c"]
    links = [Link(n, f"{n}.bias" if n == "b" else None, STEPS[step]) for n in names[:2]]
    links.append(Link("c", None, None))
    params = {n: lattice((4, 4), g) for n in names}
    params["b.bias"] = lattice((4,), g)
    x = lattice((64, 4), g)
    targets = torch.randint(0, 4, (64,), generator=g) if criterion is ce else lattice((64, 4), g)
    eps = [0.25, 0.5, 1.0]
    fast, _ = flips.differences(
        links, params, list(params), Batch(x, targets), criterion, criterion is mse, eps, 50
    )

    def loss(p):
        return flips.chain(links, p, Batch(x, targets), criterion, False).losses.sum()

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
            if criterion is mse and name != "c":  # dyadic all through: not one bit may differ
                assert torch.equal(grads[name], brute), (name, e)
            torch.testing.assert_close(grads[name], brute, rtol=1e-12, atol=1e-13)
        view = flips.chain(links, params, Batch(x, targets), criterion, False)
        ties += sum(
            int((layer.pre == t).sum()) for layer in view.layers[:2] for t in STEPS[step].thresholds
        )
    assert ties > 50  # the data does put units exactly on thresholds


def test_stepped_is_half_open():
    z = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert flips.stepped(z, STEPS["ternary"]).tolist() == [-1, 0, 0, 1, 1]
    assert flips.stepped(z, STEPS["sign"]).tolist() == [-1, -1, 1, 1, 1]


def test_obstacles_name_the_layer():
    link = Link("fc1.weight", None, None)
    assert "fc1.weight" in flips.obstacle([link, Link("head.weight", None, None)], True)
    assert flips.obstacle([link], True) is None
    assert "fc1.weight" in flips.obstacle([link], False)
    assert flips.obstacle([Link("a", None, STEPS["sign"])], True) is not None


def test_evals_grow_with_eps_and_stay_below_brute_force():
    p = Task(model=ToyMLP(quantizer=FWBA, dim=8), dataset=Gaussian(dim=8, n=500)).prepare(0)
    f = p.objective(p.batch(0))
    small, large = (f.differences(p.params, [e]).evals for e in (0.01, 1.0))
    assert 3 <= small < large < f.differences(p.params, [0.01], "brute").evals
