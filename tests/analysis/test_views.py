"""Tests of analyses of networks: what each view measures, and which views are refused."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import studied

from sa.analysis._view import check
from sa.analysis.critical_points import CriticalPoints
from sa.analysis.gradient_norm import GradientNorm
from sa.analysis.input_sensitivity import InputSensitivity
from sa.analysis.sharpness import Sharpness
from sa.analysis.surface import Surface, filtered, principal
from sa.dataset.digits import Digits
from sa.dataset.gaussian import Gaussian
from sa.dataset.sinc import Sinc
from sa.estimator.ste import STE
from sa.model.fc import FC
from sa.model.mlp import MLP
from sa.network.network import Network
from sa.objective.function import from_function
from sa.objective.prepare import prepare
from sa.params import flatten, unflatten
from sa.quantizer.none import Identity
from sa.quantizer.sign import Sign
from sa.types import Estimate, Slots

FLOAT, WEIGHTS = Slots(Identity(), Identity()), Slots(Sign(), Identity())
BOTH = Slots(Sign(), Sign())


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(quantizer=FLOAT, norm="none", seed=0, **task):
    model = MLP(quantizer, shape=(1, 8, 8), hidden=(4, 3), norm=norm)
    return prepare(studied(model, Digits(), **task), seed)


def measure(analysis, made, batch=None, seed=0):
    f = made.objective(batch or made.data.train)
    estimate = STE("identity")(f, made.params, {}, gen())
    return analysis(f, made.params, estimate, gen(seed))


@pytest.mark.parametrize("batch_size", [7, 64, None])
def test_input_sensitivity_of_a_linear_network_is_the_norm_of_its_matrix(batch_size):
    made = prepare(
        studied(
            FC(shape=(5,), hidden=(4,), outputs=3, activation="linear"),
            Gaussian(dim=5, n=200),
            batch_size=batch_size,
        ),
        0,
    )
    p = made.params
    law = float((p["head.weight"] @ p["fc1.weight"]).norm())
    for view, rel in (("latent", 1e-12), ("smoothed", 0.02)):
        out = measure(InputSensitivity(view=view, draws=2000, rows=20), made, made.batch(0))
        for split in ("train", "test"):
            for which in ("mean", "median"):
                got = out[f"input_sensitivity/{split}/logits/{which}"]
                assert got == pytest.approx(law, rel=rel)
        assert "input_sensitivity/test/probabilities/mean" not in out  # no classes


@pytest.mark.parametrize("rows", [3, 4])  # the median of an even number is between two values
def test_input_sensitivity_is_the_norm_of_the_jacobian_of_logits_and_of_probabilities(rows):
    made = problem()
    out = measure(InputSensitivity(rows=rows), made)
    x = made.data.test.inputs[:rows]
    for reading, last in (("logits", lambda z: z), ("probabilities", lambda z: z.softmax(1))):
        read = lambda x, last=last: last(made.forward.run(made.params, x, "eval"))  # noqa: E731
        jacobians = [torch.autograd.functional.jacobian(read, x[i : i + 1]) for i in range(rows)]
        each = torch.stack([j.norm() for j in jacobians])
        key = f"input_sensitivity/test/{reading}"
        assert out[f"{key}/mean"] == pytest.approx(float(each.mean()))
        assert out[f"{key}/median"] == pytest.approx(np.median(each.numpy()))


def test_the_quantized_view_has_quantized_weights_the_same_loss_and_a_gradient():
    made = problem(WEIGHTS)
    f = made.objective(made.data.train)
    g, point = f.opened(made.params)
    assert float(g.value(point)) == pytest.approx(float(f.value(made.params)), abs=1e-15)
    assert set(point["fc2.weight"].unique().tolist()) == {-1.0, 1.0}
    assert g.structure.quantized == {} and f.structure.quantized
    assert float(g.value_and_grad(point)[1]["fc2.weight"].norm()) > 0
    assert float(f.value_and_grad(made.params)[1]["fc2.weight"].norm()) == 0  # true gradient
    assert not set(made.params["fc2.weight"].unique().tolist()) & {-1.0, 1.0}  # unchanged


REFUSED = [
    (CriticalPoints(), WEIGHTS, "view=quantized"),
    (CriticalPoints(), BOTH, "no view of this network"),
    (CriticalPoints(view="quantized"), BOTH, "quantizer=fp"),
    (CriticalPoints(view="discrete"), WEIGHTS, "view=quantized"),
    (Sharpness(), BOTH, "view=smoothed.*view=discrete"),
    (Sharpness(view="discrete"), FLOAT, "view=latent"),
    (Surface(axes="eigenvectors"), WEIGHTS, "view=quantized.*axes=random and axes=pca"),
    (Surface(axes="eigenvectors"), BOTH, "no view of this network.*axes=random and axes=pca"),
    (Surface(view="discrete"), BOTH, "view=latent"),
    (InputSensitivity(), BOTH, "view=smoothed"),
]


@pytest.mark.parametrize("analysis, quantizer, words", REFUSED)
def test_a_view_that_makes_no_sense_is_refused_with_one_that_does(analysis, quantizer, words):
    with pytest.raises(ValueError, match=words):
        analysis.requires(problem(quantizer).structure)


@pytest.mark.parametrize(
    "analysis, quantizer",
    [
        (CriticalPoints(solver="none"), FLOAT),
        (CriticalPoints(solver="none", view="quantized"), WEIGHTS),
        (Sharpness(view="quantized", rounds=2, starts=1), WEIGHTS),
        (Sharpness(view="smoothed"), BOTH),
        (Sharpness(view="discrete"), BOTH),
        (Surface(points=3), BOTH),
        (Surface(points=3, view="quantized"), BOTH),
        (Surface(points=3, view="smoothed"), BOTH),
        (InputSensitivity(rows=10), WEIGHTS),
        (InputSensitivity(rows=10, view="smoothed"), BOTH),
        (GradientNorm(STE("identity"), lr=0.1), BOTH),
    ],
)
def test_a_view_that_makes_sense_runs_and_leaves_the_point_unchanged(analysis, quantizer):
    made = problem(quantizer, batch_size=32)
    if hasattr(analysis, "requires"):
        analysis.requires(made.structure)
    before = {k: p.clone() for k, p in made.params.items()}
    out = measure(analysis, made, made.batch(0))
    assert out and all(torch.equal(p, before[k]) for k, p in made.params.items())
    numbers = torch.tensor([v for v in out.values() if isinstance(v, float)])
    assert numbers.isfinite().all()
    assert out == measure(analysis, made, made.batch(0))  # a repetition gives the same numbers


def test_the_discrete_view_measures_the_flip_of_each_binary_weight():
    made = problem(WEIGHTS)
    out = measure(Sharpness(view="discrete", flips=None), made)
    f = made.objective(made.data.train)
    loss, rises = float(f.value(made.params)), []
    for i in range(12):  # fc2 is 3 x 4
        moved = made.params["fc2.weight"].clone().flatten()
        moved[i] *= -1
        at = made.params | {"fc2.weight": moved.view(3, 4)}
        rises.append(float(f.value(at)) - loss)
    rise = torch.tensor(rises, dtype=torch.float64)
    assert out["sharpness/flips"] == 12
    assert out["sharpness/flip_mean"] == pytest.approx(float(rise.mean()))
    assert out["sharpness/flip_max"] == pytest.approx(float(rise.max()))
    assert out["sharpness/flip_worse"] == float((rise > 0).double().mean())


@pytest.mark.parametrize("batchnorm, idle", [("batch", 20), ("running", 0)])
def test_a_bias_before_batchnorm_is_redundant_only_with_batch_statistics(batchnorm, idle):
    class Normed(FC):
        def build(self, generator):
            n = FC.build(self, generator)
            norm = torch.nn.BatchNorm1d(20, dtype=torch.float64)
            return Network(
                OrderedDict(flat=n.flat, fc1=n.fc1, norm1=norm, act1=n.act1, head=n.head)
            )

    made = prepare(
        studied(Normed(shape=(1,), hidden=(20,), outputs=1), Sinc(n=20), batchnorm=batchnorm), 0
    )
    out = measure(CriticalPoints(solver="none"), made)
    assert out["critical_points/redundant"] == idle
    assert out["critical_points/left_out"] == ("fc1.bias" if idle else "")
    assert out["critical_points/parameters"] == 61 + 40 - idle


def test_a_surface_of_a_quadratic_along_its_eigenvectors_is_its_formula():
    a = torch.tensor([3.0, 1.0, 0.2]).double()
    f = from_function(lambda p: (a * p["w"] ** 2).sum() / 2, vectorized=True)
    point = {"w": torch.tensor([0.0, 0.0, 2.0]).double()}
    got = Surface(axes="eigenvectors", points=5, reach=0.5)(
        f, point, Estimate(f.value(point), point, 1.0), gen()
    )
    at = got["surface/at"]
    assert at == [-0.5, -0.25, 0, 0.25, 0.5]
    law = [0.4 + 3 * (2 * x) ** 2 / 2 + (2 * y) ** 2 / 2 for y in at for x in at]
    assert got["surface/losses"] == pytest.approx(law)
    assert got["surface/lambda_1"] == pytest.approx(3) and got["surface/centre"] == pytest.approx(
        0.4
    )


def test_principal_axes_of_a_path_are_its_leading_singular_vectors():
    t = torch.linspace(0, 1, 6).double()[:, None]
    frame = torch.linalg.qr(torch.randn(40, 3, generator=gen()).double()).Q.T
    way = torch.cat([3 * (t - 1), (t - 1).square() - t + 1, 0.1 * t * (1 - t)], dim=1) @ frame
    d1, d2, told = principal(way)
    from sa.sweep.weight_pca import components

    scores, shares = components(way.numpy())
    assert [told["share_1"], told["share_2"]] == pytest.approx(shares[:2].tolist())
    far = float(way[0].norm())
    assert [float(d1.norm()), float(d2.norm())] == pytest.approx([far, far])
    assert abs(float(d1 @ d2)) < 1e-12 * far**2
    course = torch.tensor([told["path/a"], told["path/b"]], dtype=torch.float64).T
    assert course[-1].tolist() == [0, 0] and float(course[0, 0]) > 0
    theirs = torch.tensor((scores[:, :2] - scores[-1, :2]) / far)
    torch.testing.assert_close(course.abs(), theirs.abs())
    left = way - course @ torch.stack([d1, d2])  # the part of the path outside the plane
    torch.testing.assert_close(left @ torch.stack([d1, d2]).T, torch.zeros(6, 2).double())
    with pytest.raises(ValueError, match="ended where it began"):
        principal(torch.zeros(4, 5))


def test_a_straight_path_is_the_first_axis_and_its_losses_are_in_the_plane():
    made = problem(WEIGHTS)
    back = {k: torch.randn(p.shape, generator=gen(1)).double() for k, p in made.params.items()}
    back["head.bias"] *= 0  # stored points may lack a parameter that did not move
    point = lambda a: {k: p + a * back[k] for k, p in made.params.items()}  # noqa: E731
    kept = [{k: p for k, p in point(a).items() if k != "head.bias"} for a in (1.0, 0.75, 0.3)]
    made.evaluation.kept = lambda: kept
    loss = made.objective(made.data.train).value
    out = measure(Surface(axes="pca", points=5), made)
    assert out["surface/share_1"] == pytest.approx(1) == out["surface/share"]
    assert out["surface/path/a"] == pytest.approx([1, 0.75, 0.3, 0])
    middle = out["surface/losses"][10:15]  # b = 0, a = -1, -0.5, 0, 0.5, 1
    law = [float(loss(point(a))) for a in out["surface/at"]]
    assert middle == pytest.approx(law) and out["surface/centre"] == pytest.approx(law[2])
    seen = measure(Surface(axes="pca", points=3, view="quantized"), made)
    far = [made.objective(made.data.train).opened(made.params | x)[1] for x in (kept[0], point(0))]
    apart = flatten(far[0]) - flatten(far[1])
    assert seen["surface/path/a"][0] ** 2 + seen["surface/path/b"][0] ** 2 <= 1 + 1e-12
    assert set((apart / 2).tolist()) - {0.0}  # some sign differs, so the points span a plane
    made.evaluation.kept = lambda: kept[:1]
    assert measure(Surface(axes="pca"), made) == {}  # two points do not span a plane


@pytest.mark.parametrize("axes, few", [("pca", 2), ("random", 1), ("eigenvectors", 1)])
def test_too_few_parameters_for_a_plane_are_refused(axes, few):
    with pytest.raises(ValueError, match=f"w: {few} parameters, and a plane has two directions"):
        Surface(axes=axes).fits({"w": torch.zeros(few)}, 1 << 20)
    Surface(axes=axes).fits({"w": torch.zeros(few + 1)}, 1 << 20)


def test_random_axes_are_normalised_filter_by_filter():
    point = {"w": torch.randn(3, 5, generator=gen()).double(), "b": torch.ones(3).double()}
    d = unflatten(filtered(point, gen(1)), point)
    torch.testing.assert_close(d["w"].norm(dim=1), point["w"].norm(dim=1))
    assert not d["b"].any()


def test_gradient_norms_on_a_quadratic_are_those_computed_by_hand():
    a = torch.tensor([3.0, 1.0]).double()
    f = from_function(lambda p: (a * p["w"] ** 2).sum() / 2, vectorized=True)
    point = {"w": torch.tensor([1.0, 2.0]).double()}
    ste = STE("identity")
    out = GradientNorm(ste, lr=0.5)(f, point, ste(f, point, {}, gen()), gen())
    assert out["gradient_norm/full"] == pytest.approx(13**0.5) == out["gradient_norm/batch/w"]
    assert out["gradient_norm/update"] == pytest.approx(0.5 * 13**0.5 / 5**0.5)
    # after the step w = (-0.5, 1) and g = (-1.5, 1); the cosine is that with (3, 2)
    assert out["gradient_norm/successive"] == pytest.approx(-2.5 / (13 * 3.25) ** 0.5)
    assert out["gradient_norm/lambda_max"] == pytest.approx(3) and out["gradient_norm/edge"] == 4


def test_gradient_norm_measures_the_minibatch_and_all_rows():
    made = problem(batch_size=16)
    out = measure(GradientNorm(STE("identity")), made, made.batch(0))
    for which, batch in (("full", made.data.train), ("batch", made.batch(0))):
        g = made.objective(batch).value_and_grad(made.params)[1]
        assert out[f"gradient_norm/{which}"] == pytest.approx(float(flatten(g).norm()))
        assert out[f"gradient_norm/{which}/head.bias"] == pytest.approx(
            float(g["head.bias"].norm())
        )
    hessian = made.objective(made.data.train).curvature(made.params)
    top = float(hessian.top(1, gen(3)).values[0])
    assert out["gradient_norm/lambda_max"] == pytest.approx(top, rel=1e-3)
    assert "gradient_norm/edge" not in out


def test_every_view_of_a_float_network_is_accepted():
    structure = problem().structure
    needs = {"latent": True, "quantized": True, "smoothed": False}
    for view in needs:
        check(structure, view, needs, "it")
