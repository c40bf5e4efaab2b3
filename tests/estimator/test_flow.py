"""Tests of flow on a quadratic, whose exact flow is exp(-Ht), and on a quartic loss."""

import math

import pytest
import torch

from sa.estimator.flow import Flow
from sa.network.structure import Structure
from sa.objective.function import from_function
from sa.params import flatten, stream
from sa.types import Moment

LAM = torch.tensor([8.0, 3.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64)


def bowl():
    """Return the loss w'Hw/2 with a known spectrum, a point w, and the function t -> exp(-Ht) w."""
    turn = torch.linalg.qr(torch.randn(6, 6, generator=stream(0, "q"), dtype=torch.float64)).Q
    h = turn * LAM @ turn.T
    f = from_function(lambda p: flatten(p) @ h @ flatten(p) / 2)
    at = {"a": torch.ones(2, 2, dtype=torch.float64), "b": torch.ones(2, dtype=torch.float64)}
    return f, at, lambda t: turn * (-LAM * t).exp() @ turn.T @ flatten(at)


def walk(flow, f, at, lr, steps):
    """Return the point that SGD at rate lr reaches after the steps, and the last estimate."""
    state, point = flow.init(at), at
    for step in range(steps):
        got = flow(f, point, state, stream(0, "e", step), Moment(lr=lr))
        state = got.state
        point = {k: point[k] - lr * got.grad[k] for k in point}
    return point, got


@pytest.mark.parametrize(("reach", "error"), [(2.0, 2**5 / 120), (0.5, 0.5**5 / 120)])
def test_sgd_with_flow_follows_exp_minus_ht_on_a_quadratic(reach, error):
    f, at, exact = bowl()
    lr, steps = 0.6, 3  # plain descent would diverge: lr lambda_1 = 4.8
    point, last = walk(Flow(reach=reach, refresh=1), f, at, lr, steps)
    inner = math.ceil(lr * 8 / reach)
    assert last.info["inner"] == inner
    size = float(flatten(at).norm())
    assert float((flatten(point) - exact(lr * steps)).norm()) <= steps * inner * error * size


def test_flow_has_an_error_of_fourth_order():
    f, at, exact = bowl()
    errors = []
    for reach in (0.8, 0.4, 0.2):
        point, _ = walk(Flow(reach=reach), f, at, 0.5, 1)
        errors.append(float((flatten(point) - exact(0.5)).norm()))
    assert errors[0] / errors[1] > 14 and errors[1] / errors[2] > 14  # 16 as h -> 0


def test_flow_follows_the_exact_solution_for_a_quartic_loss():
    f = from_function(lambda p: p["w"].pow(4).sum() / 4)  # dw/dt = -w^3: w = w0/sqrt(1 + 2 w0^2 t)
    at = {"w": torch.tensor([1.5], dtype=torch.float64)}
    point, _ = walk(Flow(reach=0.2, refresh=1), f, at, 0.25, 4)
    assert float(point["w"]) == pytest.approx(1.5 / math.sqrt(1 + 2 * 1.5**2), rel=1e-5)


def test_flow_counts_gradients_and_hessian_products_as_evals():
    f, at, _ = bowl()
    calls, true = [], f.value_and_grad
    f.value_and_grad = lambda *a, **k: calls.append(1) or true(*a, **k)
    flow = Flow(refresh=2)
    moment = Moment(lr=0.6)
    one = flow(f, at, flow.init(at), stream(0, "e"), moment)
    assert len(calls) == 4 * one.info["inner"] == 12 and float(one.value) == float(f.value(at))
    two = flow(f, at, one.state, stream(0, "e"), moment)  # this call does not refresh the sharpness
    assert two.evals == 36 and one.evals > 36
    three = flow(f, at, two.state, stream(0, "e"), moment)
    assert three.evals == pytest.approx(36 + 3.9 + 3 * 3.6)
    assert three.info["sharpness"] == pytest.approx(8, rel=0.02)


def test_flow_at_learning_rate_0_is_the_gradient():
    f, at, _ = bowl()
    got = Flow()(f, at, Flow().init(at), stream(0, "e"), Moment(lr=0.0))
    torch.testing.assert_close(flatten(got.grad), flatten(f.value_and_grad(at)[1]))


def test_flow_returns_a_loss_that_is_not_finite_unchanged():
    f = from_function(lambda p: p["w"].pow(4).sum())
    for at in (1e100, math.nan):
        point = {"w": torch.tensor([at, 1.0], dtype=torch.float64)}
        got = Flow()(f, point, Flow().init(point), stream(0, "e"), Moment(lr=0.1))
        assert not math.isfinite(got.value) and got.evals == 3


def test_flow_refuses_quantized_networks_other_optimizers_and_minibatches():
    with pytest.raises(ValueError, match="nothing flows; take the network in full precision"):
        Flow().requires(Structure(quantized={"act.activation": "Sign()"}))
    with pytest.raises(ValueError, match="set optimizer=sgd optimizer.momentum=0"):
        Flow().trains(10, torch.optim.Adam, {})
    with pytest.raises(ValueError, match="momentum would change"):
        Flow().trains(10, torch.optim.SGD, {"momentum": 0.9})
    with pytest.raises(ValueError, match="weight decay would change"):
        Flow().trains(10, torch.optim.SGD, {"weight_decay": 0.1})
    with pytest.raises(ValueError, match="of all training rows; set batch_size=null"):
        Flow().trains(10, torch.optim.SGD, {}, 32)
    f, at, _ = bowl()
    with pytest.raises(ValueError, match="the flow needs a training; set steps"):
        Flow()(f, at, Flow().init(at), stream(0, "e"))
