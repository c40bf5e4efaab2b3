"""Tests that every estimator works at points of any shape, memory layout and dtype."""

import pytest
import torch
from conftest import ROOMS, component, options, plain

from sa import surrogate
from sa.estimator.nes import NES
from sa.objective.function import from_function
from sa.types import Moment

# local_nes and discrete_gradient need a network
ESTIMATORS = sorted(set(options("estimator")) - {"local_nes", "discrete_gradient"})
FEW = {
    "orthonormal_probe": {"samples": 0},
    "spectral": {"n_filter": 1},
    "spectral_ste": {"n_filter": 1},
    "snes": {"generations": 3},
    "xnes": {"generations": 3},
    "cma": {"generations": 3},
}
SMALLEST = {"orthonormal_probe": 1, "spectral": 2, "spectral_ste": 2}  # smallest D; less is refused


def few(name):
    made = component("estimator", name)
    many = {"samples": 6} if getattr(made, "samples", None) and made.samples > 6 else {}
    return component("estimator", name, **many | FEW.get(name, {}))


def bowl(p):
    return sum(((q - 0.3) ** 2).sum() + q.sum() for q in p.values())


def units(p):
    """Return a loss of the parameters and of one random unit for each parameter."""
    total = bowl(p)
    for q in p.values():
        s = surrogate.bernoulli(q.reshape(1, -1))
        total = total + (s * torch.arange(1, q.numel() + 1)).sum() ** 2 / 10
    return total


@pytest.fixture(autouse=True)
def every_warning():
    """Make torch repeat warnings that it gives only once, so that every test fails on them."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # torch's own forward mode
def test_every_estimator_takes_a_point_of_any_shape_and_layout(name, room, vectorized):
    estimator, point = few(name), ROOMS[room]
    random = estimator.target == "stochastic"
    f = from_function(units if random else bowl, vectorized=vectorized)

    def run(at):
        generator = torch.Generator().manual_seed(0)
        return estimator(f, at, estimator.init(at), generator, Moment(lr=0.1))

    dim = sum(p.numel() for p in point.values())
    if dim < SMALLEST.get(name, 0) or (random and not dim):
        with pytest.raises(ValueError, match="parameters move|n_filter below|random unit"):
            run(point)
        return
    before, versions = plain(point), [p._version for p in point.values()]
    got, wanted = run(point), run(before)
    assert list(got.grad) == list(point) and not got.value.requires_grad
    for k, p in point.items():
        g = got.grad[k]
        assert (g.shape, g.dtype, g.requires_grad) == (p.shape, p.dtype, False)
        assert g.isfinite().all()
        torch.testing.assert_close(g, wanted.grad[k], rtol=1e-6, atol=1e-9)
        assert torch.equal(p, before[k])
    assert [p._version for p in point.values()] == versions


def test_nes_of_one_number_estimates_its_derivative():
    f = from_function(lambda p: (p["gain"] ** 2).sum())
    at = {"gain": torch.tensor(2.0, dtype=torch.float64)}
    got = NES(samples=20_000)(f, at, {}, torch.Generator().manual_seed(0))
    assert got.grad["gain"].shape == () and abs(float(got.grad["gain"]) - 4) < 0.15


def test_a_point_without_tensors_is_refused():
    with pytest.raises(ValueError, match="no parameters"):
        NES()(from_function(lambda p: torch.zeros(())), {}, {}, torch.Generator())
