"""Muon: orthogonalised momentum has singular values near one and keeps singular vectors."""

import pytest
import torch

from sa.params import stream
from sa.training.muon import Muon, orthogonalised


def matrix(n, m):
    return torch.randn(n, m, generator=stream(0, "m"), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_orthogonalising_sets_singular_values_near_one_and_keeps_singular_vectors(shape):
    x = matrix(*shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inner = u.T @ orthogonalised(x, 5) @ v.T
    values = inner.diagonal()
    assert ((values > 0.6) & (values < 1.3)).all()
    torch.testing.assert_close(inner, torch.diag(values), atol=1e-10, rtol=0)


def test_orthogonalising_keeps_zero_and_the_direction_of_a_vector():
    assert (orthogonalised(torch.zeros(3, 4), 5) == 0).all()
    x = matrix(7, 1)
    torch.testing.assert_close(orthogonalised(x, 5), x / x.norm())


def test_two_steps_of_muon_equal_the_formula():
    w = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = Muon([w, b], lr=0.1, momentum=0.5)
    one, two = matrix(4, 2), matrix(4, 2).flip(0)
    expected = torch.zeros(4, 2, dtype=torch.float64)
    buffer = torch.zeros(4, 2, dtype=torch.float64)
    for g in (one, two):
        w.grad, b.grad = g.clone(), torch.tensor([3.0, 0, 4.0], dtype=torch.float64)
        optimizer.step()
        buffer = 0.5 * buffer + g
        expected -= 0.1 * 2**0.5 * orthogonalised(g + 0.5 * buffer, 5)
        assert torch.equal(w.grad, g)
    torch.testing.assert_close(w.detach(), expected)
    # a step moves a vector by its direction times sqrt(n)
    along = torch.tensor([0.6, 0, 0.8], dtype=torch.float64)
    torch.testing.assert_close(b.detach(), -0.2 * 3**0.5 * along)


def test_muon_steps_a_scalar_by_the_sign_of_its_gradient():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    optimizer = Muon([w], lr=0.1)
    w.grad = torch.tensor(-3.0, dtype=torch.float64)
    optimizer.step()
    assert float(w.detach()) == pytest.approx(2.1)


def test_muon_resumes_exactly_from_its_state():
    def walk(steps, state=None, at=None):
        w = (matrix(3, 3) if at is None else at.clone()).requires_grad_()
        optimizer = Muon([w], lr=0.1)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            w.grad = 2 * w.detach()
            optimizer.step()
        return w.detach(), optimizer.state_dict()

    whole, _ = walk(5)
    half, state = walk(2)
    assert torch.equal(walk(3, state, half)[0], whole)


def test_muon_refuses_a_momentum_out_of_range():
    with pytest.raises(ValueError, match="0 <= momentum < 1"):
        Muon([torch.zeros(2, 2)], lr=0.1, momentum=1.0)
