"""Tests of alignment, descent and smoothing on losses whose answers are known exactly."""

import math

import pytest
import torch

from sa.analysis.alignment import Alignment, cosine
from sa.analysis.coordinates import Coordinates
from sa.analysis.descent import Descent
from sa.analysis.smoothing import Smoothing
from sa.estimator.cdg import CDG
from sa.estimator.nes import NES
from sa.estimator.ste import STE
from sa.objective.function import from_function
from sa.params import flatten, unflatten
from sa.types import Estimate


def gen():
    return torch.Generator().manual_seed(0)


def estimate(f, point, vector):
    return Estimate(f.value(point), unflatten(vector, point), 1.0)


@pytest.fixture
def bowl():
    """Return the loss |w|^2/2 and a point: the gradient is w, the best step |w| gains |w|^2/2."""
    point = {"a": torch.tensor([3.0, 0.0]).double(), "b": torch.tensor([[4.0]]).double()}
    f = from_function(lambda p: (p["a"] ** 2).sum() / 2 + (p["b"] ** 2).sum() / 2, vectorized=True)
    return f, point


def test_alignment_measures_cosine_scale_and_error_of_a_known_vector(bowl):
    f, point = bowl
    g = torch.tensor([3.0, 0.0, 4.0]).double()
    other = torch.tensor([-2.0, 0.0, 0.0]).double()  # cos = -6/(2*5), scale = -6/25
    out = Alignment({"cdg": CDG(0.1)})(f, point, estimate(f, point, other), gen())
    assert out["alignment/cosine"] == pytest.approx(-0.6)
    assert out["alignment/cdg/cosine"] == pytest.approx(-0.6)
    assert out["alignment/scale"] == pytest.approx(-6 / 25)
    assert out["alignment/rmse"] == pytest.approx(float((other - g).norm()) / 5)
    assert out["alignment/sign"] == 0.0 and out["alignment/dead"] == pytest.approx(2 / 3)
    assert out["alignment/cosine/a"] == pytest.approx(-1.0)
    assert math.isnan(out["alignment/cosine/b"])
    assert out["alignment/cdg/cosine/a"] == out["alignment/cosine/a"]


def test_alignment_reports_each_layer_for_every_reference(bowl):
    f, point = bowl
    g = {"a": torch.tensor([3.0, 3.0]).double(), "b": -point["b"]}
    two = {"cdg": CDG(0.1), "ste": STE()}
    out = Alignment(two)(f, point, Estimate(f.value(point), g, 1.0), gen())
    assert out["alignment/ste/cosine/a"] == pytest.approx(0.5**0.5)
    assert out["alignment/ste/cosine/b"] == pytest.approx(-1)


def test_alignment_scale_is_4_when_the_estimate_is_4_times_too_long(bowl):
    f, point = bowl
    out = Alignment({"cdg": CDG(0.1)})(f, point, estimate(f, point, 4 * flatten(point)), gen())
    assert out["alignment/cosine"] == pytest.approx(1) and out["alignment/scale"] == pytest.approx(
        4
    )
    assert out["alignment/sign"] == 1.0


def test_alignment_ceiling_is_the_cosine_of_train_and_heldout_gradients(bowl):
    f, point = bowl
    f.heldout = from_function(lambda p: p["a"][0])  # gradient (1, 0, 0)
    out = Alignment({"cdg": CDG(0.1)})(f, point, estimate(f, point, flatten(point)), gen())
    assert out["alignment/ceiling"] == pytest.approx(0.6)


def test_cosine_with_a_zero_vector_is_nan():
    assert math.isnan(cosine(torch.zeros(2), torch.ones(2)))


def test_descent_finds_the_minimum_of_a_bowl(bowl):
    f, point = bowl
    out = Descent(reference=CDG(0.1))(f, point, estimate(f, point, 7 * flatten(point)), gen())
    # L(w) - L(w - eta d) = eta |w| - eta^2/2 is 12.5 at eta = 5; the grid has a rate within 3 %
    assert out["descent/best"] == pytest.approx(12.5, rel=0.01)
    assert out["descent/best_lr"] == pytest.approx(5, rel=0.12)
    assert out["descent/ratio"] == pytest.approx(1.0)
    assert out["descent/edge"] == 0.0
    for lr, drop in zip(out["descent/lr"], out["descent/decrease"], strict=True):
        assert drop == pytest.approx(5 * lr - lr**2 / 2, abs=1e-9)
    # the gain is half of the best at eta = 5 (1 -+ sqrt(1/2))
    law = math.log10((1 + 0.5**0.5) / (1 - 0.5**0.5))
    assert out["descent/window"] == pytest.approx(law, abs=0.4)


def test_descent_layerwise_normalises_each_layer(bowl):
    f, point = bowl
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    # a and b are normalised separately: d = (1, 0, 1)/sqrt 2, slope 7/sqrt 2, best gain slope^2/2
    assert out["descent/layerwise/best"] == pytest.approx(49 / 4, rel=0.01)


def test_descent_extends_a_grid_whose_best_rate_is_at_the_edge(bowl):
    f, point = bowl
    short = Descent(lr_min=1e-3, lr_max=0.1)
    out = short(f, point, estimate(f, point, flatten(point)), gen())
    assert out["descent/best"] == pytest.approx(12.5, rel=0.02) and out["descent/edge"] == 0.0
    none = Descent(lr_min=1e-3, lr_max=0.1, extend=0)
    assert none(f, point, estimate(f, point, flatten(point)), gen())["descent/edge"] == 1.0


def test_descent_reads_the_heldout_loss_at_the_rate_chosen_on_train(bowl):
    f, point = bowl
    f.heldout = from_function(lambda p: 2 * p["a"][0], vectorized=True)
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    # on the held-out loss a step gains 2 * 3/5 eta along w/5, sqrt 2 eta along (1, 0, 1)/sqrt 2
    assert out["descent/best_heldout"] == pytest.approx(1.2 * out["descent/best_lr"])
    layerwise = out["descent/layerwise/best_heldout"], out["descent/layerwise/best_lr"]
    assert layerwise[0] == pytest.approx(2**0.5 * layerwise[1])


def test_descent_evaluates_the_heldout_loss_along_the_estimate_and_once_for_each_other(bowl):
    f, point = bowl
    f.heldout = from_function(lambda p: p["a"][0], vectorized=True)
    seen, values = [], f.heldout.values
    f.heldout.values = lambda stack, base=None: seen.append(len(stack["a"])) or values(stack, base)
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    assert seen == [len(out["descent/lr"]), *[1] * Descent().nulls, 1]


def test_descent_null_is_below_the_gradient_and_does_not_depend_on_the_estimate(bowl):
    f, point = bowl
    one, two = (
        Descent()(f, point, estimate(f, point, v), gen()) for v in (flatten(point), -flatten(point))
    )
    assert one["descent/null_best"] < one["descent/best"]
    assert one["descent/null_best"] == pytest.approx(two["descent/null_best"], rel=0.05)


def test_descent_null_heldout_is_read_at_the_rates_chosen_on_train(bowl):
    f, point = bowl
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    assert "descent/null_heldout" not in out  # without held-out rows

    def bowls(p):
        return (p["a"] ** 2).sum() / 2 + (p["b"] ** 2).sum() / 2

    f.heldout = from_function(lambda p: bowls(p) + 7, vectorized=True)
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    assert out["descent/null_heldout"] == pytest.approx(out["descent/null_best"])
    f.heldout = from_function(lambda p: -3 * bowls(p), vectorized=True)
    out = Descent()(f, point, estimate(f, point, flatten(point)), gen())
    assert out["descent/null_heldout"] == pytest.approx(-3 * out["descent/null_best"])


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_descent_along_0_gains_nothing_and_along_nan_is_diverged(bowl, bad):
    f, point = bowl
    out = Descent()(f, point, estimate(f, point, torch.full((3,), bad).double()), gen())
    assert out["descent/best"] == pytest.approx(bad, abs=1e-12, nan_ok=True)
    assert out["descent/diverged"] == math.isnan(bad) and math.isfinite(out["descent/null_best"])


def test_descent_layerwise_skips_a_layer_whose_gradient_is_0(bowl):
    f, point = bowl
    point = {k: v.float() for k, v in point.items()}
    out = Descent()(f, point, estimate(f, point, torch.tensor([0.0, 0.0, 2.0])), gen())
    assert out["descent/layerwise/best"] == pytest.approx(8, rel=0.01)  # 4^2/2, along b alone


def test_descent_window_surrounds_the_best_peak_and_area_covers_the_set_grid():
    """The gain has two peaks over log lr; the window is that of the higher peak alone."""

    def hill(at):
        return lambda p: -torch.exp(-0.5 * ((p["w"].abs().log10() - at) / 0.1) ** 2).sum()

    f = from_function(lambda p: hill(-2.0)(p) + 0.9 * hill(0.0)(p), vectorized=True)
    point = {"w": torch.zeros(1).double()}
    out = Descent(points=401)(f, point, estimate(f, point, torch.ones(1).double()), gen())
    # a gaussian of width 0.1 decades is above its half for 2 * 0.1 sqrt(2 ln 2) decades
    assert out["descent/window"] == pytest.approx(0.2 * math.sqrt(2 * math.log(2)), abs=0.03)
    area = 1.9 * 0.1 * math.sqrt(2 * math.pi) / 4  # both hills over four decades
    assert out["descent/area"] == pytest.approx(area, rel=0.01)
    short = Descent(points=201, lr_min=1e-1, lr_max=0.5)  # extended to find the peak at 1
    out = short(f, point, estimate(f, point, torch.ones(1).double()), gen())
    assert out["descent/edge"] == 0.0 and max(out["descent/lr"]) > 1
    assert out["descent/area"] < 0.02


@pytest.mark.parametrize(("wrong", "told"), [
    ({"lr_min": 1, "lr_max": 0.1}, "lr_min=1.0 must be below lr_max=0.1"),
    ({"points": 2}, "points\n.*greater than or equal to 3"),
    ({"nulls": 0}, "nulls\n.*greater than or equal to 1"),
])  # fmt: skip
def test_descent_refuses_settings_out_of_range(wrong, told):
    with pytest.raises(ValueError, match=told):
        Descent(**wrong)


def test_smoothing_of_a_bowl_changes_no_gradient_and_adds_a_constant(bowl):
    f, point = bowl
    f.heldout = from_function(lambda p: 2 * p["a"][0], vectorized=True)
    look = Smoothing(NES(samples=2000), epsilons=(0.1, 1.0), sigmas=(0.1, 0.5), draws=4000)
    out = look(f, point, estimate(f, point, flatten(point)), gen())
    assert out["smoothing/box/norm"] == pytest.approx([5.0, 5.0])
    assert out["smoothing/gaussian/norm"] == pytest.approx([5.0, 5.0], rel=0.05)
    for kind in ("box", "gaussian"):
        assert out[f"smoothing/{kind}/best"] == pytest.approx([12.5, 12.5], rel=0.01)
        # along w/5 the held-out loss falls by 6/5 per unit of length, and the best length is 5
        assert out[f"smoothing/{kind}/heldout"] == pytest.approx([6.0, 6.0], rel=0.1)
    assert len(out["smoothing/cosine"]) == 4 and min(out["smoothing/cosine"]) > 0.99
    # E f(w + s e) - f(w) = s^2 D/2, with a standard error of s |w| / sqrt(draws)
    for sigma, gap in zip((0.1, 0.5), out["smoothing/gaussian/gap"], strict=True):
        assert gap == pytest.approx(1.5 * sigma**2, abs=4 * sigma * 5 / 4000**0.5)
    assert out["smoothing/epsilon"] in (0.1, 1.0) and out["smoothing/sigma"] in (0.1, 0.5)


def test_coordinates_are_means_and_spreads_of_every_second_coordinate(bowl):
    f, point = bowl
    four = point | {"b": torch.tensor([[1.0, 4.0]]).double()}  # 3, 0, 1, 4
    out = Coordinates(period=2)(f, four, Estimate(f.value(four), four, 1.0), gen())
    assert [out[f"coordinates/mean/{i}"] for i in (1, 2)] == [2.0, 2.0]
    assert [out[f"coordinates/spread/{i}"] for i in (1, 2)] == [1.0, 2.0]
    Coordinates(period=2).fits(four)
    with pytest.raises(ValueError, match="3 coordinates, which is no multiple of it"):
        Coordinates(period=2).fits(point)
