"""Tests of the analyses curvature, blocks and eigenvectors on quadratics of known spectrum."""

import math

import pytest
import torch

from sa.analysis.blocks import Blocks
from sa.analysis.curvature import Curvature
from sa.analysis.eigenvectors import Eigenvectors, participation
from sa.network.structure import Structure
from sa.objective.function import from_function
from sa.params import flatten, stream
from sa.types import Estimate, Moment

LAM = torch.tensor([9.0, 7, 0.5, 0.1, 8.0, 6, 0.4, 0.2], dtype=torch.float64)


@pytest.fixture
def bowl():
    """Return a quadratic of two uncoupled blocks, a point, an estimate there, and eigenvectors."""
    draws = (torch.randn(4, 4, generator=stream(i, "q"), dtype=torch.float64) for i in (0, 1))
    turn = torch.block_diag(*(torch.linalg.qr(x).Q for x in draws))
    h = turn * LAM @ turn.T
    f = from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)
    at = {k: torch.ones(2, 2, dtype=torch.float64) for k in ("a", "b")}
    return f, at, Estimate(*f.value_and_grad(at), 3.0), turn


def test_curvature_measures_a_known_spectrum(bowl):
    f, at, estimate, turn = bowl
    got = Curvature(k=4, tol=1e-8, lr=0.1, draws=200, steps=8)(f, at, estimate, stream(0, "a"))
    assert [got[f"curvature/lambda_{i}"] for i in (1, 2, 3, 4)] == pytest.approx([9, 8, 7, 6])
    assert [got[f"curvature/b/lambda_{i}"] for i in (1, 2, 3, 4)] == pytest.approx([8, 6, 0.4, 0.2])
    assert got["curvature/gap"] == pytest.approx(12)
    assert 0 <= got["curvature/residual"] <= 1e-3
    assert got["curvature/edge"] == 20 and got["curvature/share"] == pytest.approx(0.45)
    assert got["curvature/headroom"] == pytest.approx(20 / 0.5)
    grad = turn.T @ flatten(estimate.grad)
    top = grad[[0, 1, 4, 5]].square().sum() / grad.square().sum()
    assert got["curvature/top_share"] == pytest.approx(float(top))
    trace, error = got["curvature/trace"], got["curvature/trace_error"]
    assert abs(trace - float(LAM.sum())) < 4 * error
    assert sum(got["curvature/weights"]) == pytest.approx(1)
    moment = sum(
        n * w for n, w in zip(got["curvature/nodes"], got["curvature/weights"], strict=True)
    )
    assert moment == pytest.approx(float(LAM.mean()), rel=0.1)


def test_uncoupled_blocks_contain_the_whole_top_eigenspace(bowl):
    f, at, estimate, turn = bowl
    got = Blocks(k=2, tol=1e-8)(f, at, estimate, stream(0, "a"))
    assert (
        got["blocks/count"] == 2
        and got["blocks/order"] == "a,b"
        and got["blocks/a/shapes"] == "2x2"
    )
    assert got["blocks/held"] == pytest.approx([1, 1]) and got["blocks/held_least"] > 1 - 1e-8
    grad = turn.T @ flatten(estimate.grad)
    assert got["blocks/a/part"] == pytest.approx(
        float(grad[:4].square().sum() / grad.square().sum())
    )
    assert got["blocks/b/share"] == pytest.approx(
        float(grad[4:6].square().sum() / grad[4:].square().sum())
    )
    assert (got["blocks/b/lambda_1"], got["blocks/b/lambda_2"]) == pytest.approx((8, 6))


def test_coupled_blocks_contain_a_known_share_of_the_top_eigenspace():
    v = torch.ones(4, dtype=torch.float64) / 2
    # the sharpest direction spans both blocks and is no eigenvector of either block
    h = torch.outer(v, v) + torch.diag(torch.tensor([0.5, 0, 0, 0], dtype=torch.float64))
    f = from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)
    at = {k: torch.ones(1, 2, dtype=torch.float64) for k in ("a", "b")}
    got = Blocks(k=1, tol=1e-8)(f, at, Estimate(*f.value_and_grad(at), 3.0), stream(0, "a"))
    u = torch.linalg.eigh(h)[1][:, -1]
    mine = [torch.linalg.eigh(b)[1][:, -1] for b in (h[:2, :2], h[2:, 2:])]
    held = (mine[0] @ u[:2]) ** 2 + (mine[1] @ u[2:]) ** 2
    assert got["blocks/held"] == pytest.approx([float(held)]) and held < 0.99


def test_blocks_of_a_quantized_network_have_shapes_and_parts_but_no_spectra(bowl):
    f, at, estimate, _ = bowl
    f.forward.structure = Structure(quantized={"act.activation": "Sign()"})
    got = Blocks()(f, at, estimate, stream(0, "a"))
    assert "no Hessian" in got["blocks/note"] and "blocks/held" not in got
    assert got["blocks/a/part"] + got["blocks/b/part"] == pytest.approx(1)
    with pytest.raises(ValueError, match="has no Hessian to speak of; take analysis=smoothing"):
        Curvature().requires(f.structure)
    with pytest.raises(ValueError, match="has no Hessian to speak of; take analysis=smoothing"):
        Eigenvectors().requires(f.structure)


def test_eigenvectors_of_uncoupled_blocks_live_in_their_own_block(bowl):
    f, at, estimate, turn = bowl
    got = Eigenvectors(k=4, tol=1e-10)(f, at, estimate, stream(0, "a"))
    assert got["eigenvectors/values"] == pytest.approx([9, 8, 7, 6])
    assert got["eigenvectors/a/shares"] == pytest.approx([1, 0, 1, 0], abs=1e-8)
    assert got["eigenvectors/b/shares"] == pytest.approx([0, 1, 0, 1], abs=1e-8)
    assert got["eigenvectors/a/share"] == pytest.approx(0.5) and got["eigenvectors/a/size"] == 0.5
    assert got["eigenvectors/order"] == "a,b" and got["eigenvectors/gap"] == pytest.approx(12)
    mine = turn[:, [0, 4, 1, 5]]  # the eigenvectors of 9, 8, 7 and 6
    expected = 1 / (8 * mine.pow(4).sum(0))
    assert got["eigenvectors/participation"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert got["eigenvectors/participation_mean"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert "eigenvectors/displacement" not in got


def test_participation_counts_the_coordinates_of_a_vector():
    one, most = torch.eye(5)[0], torch.ones(5) / math.sqrt(5)
    half = torch.tensor([1.0, 0, -1, 0, 0]) / math.sqrt(2)
    got = participation(torch.stack([one, most, half]))
    assert got.tolist() == pytest.approx([1 / 5, 1, 2 / 5])
    draws = torch.randn(200, 4000, generator=stream(0, "p"), dtype=torch.float64)
    got = participation(draws / draws.norm(dim=1, keepdim=True))  # E u^4 = 3/D^2 for large D
    assert abs(float(got.mean()) - 1 / 3) < 4 * float(got.std()) / math.sqrt(200) + 1e-3


def rotated(angle):
    """Return a quadratic whose sharpest direction is turned by an angle in the plane of w1, w2."""
    v = torch.tensor([math.cos(angle), math.sin(angle), 0, 0], dtype=torch.float64)
    h = 9 * torch.outer(v, v) + torch.diag(torch.tensor([0, 0, 5, 0.1], dtype=torch.float64))
    return from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
@pytest.mark.parametrize("k", [1, 2])  # with k = 2 the direction w3 of both spaces is the same
def test_displacement_is_the_squared_sine_of_the_angle_between_the_spaces(angle, k):
    at = {"w": torch.ones(4, dtype=torch.float64)}
    estimate = Estimate(torch.tensor(0.0), at, 3.0)
    analysis, call = Eigenvectors(k=k, tol=1e-10), (at, estimate, stream(0, "a"))
    first, state = analysis.after({}, rotated(0.0), *call, Moment(step=20))
    assert "eigenvectors/displacement" not in first
    second, _ = analysis.after(state, rotated(angle), *call, Moment(step=50))
    assert second["eigenvectors/displacement"] == pytest.approx(math.sin(angle) ** 2 / k, abs=1e-8)
    assert second["eigenvectors/since"] == 30


def test_eigenvectors_of_a_point_of_one_number_are_that_number():
    f = from_function(lambda p: 3 * p["w"].square().sum())
    at = {"w": torch.ones((), dtype=torch.float64)}
    got = Eigenvectors()(f, at, Estimate(torch.tensor(3.0), at, 3.0), stream(0, "a"))
    assert got["eigenvectors/values"] == [pytest.approx(6)]
    assert got["eigenvectors/participation"] == [1] and got["eigenvectors/gap"] == math.inf
