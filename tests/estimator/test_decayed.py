"""A smoothing length that falls along a training takes its bias with it."""

import pytest
import torch

from sa.estimator.best_of import BestOf
from sa.estimator.cdg import CDG
from sa.estimator.decayed import Decayed
from sa.estimator.flow import Flow
from sa.estimator.nes import NES
from sa.objective.function import from_function
from sa.types import Moment

VALLEY = from_function(
    lambda p: (1 - p["w"][0]) ** 2 + 100 * (p["w"][1] - p["w"][0] ** 2) ** 2, vectorized=True
)
START = {"w": torch.tensor([0.5, 0.3], dtype=torch.float64)}


def test_the_estimate_is_that_of_the_base_at_the_length_of_the_moment():
    for base, half in ((CDG(0.1), CDG(0.01)), (NES(0.1, 20), NES(0.01, 20))):
        decayed = Decayed(base, end=0.01)
        for at, alone in ((Moment(), base), (Moment(0, 8), base), (Moment(4, 8), half)):
            got = decayed(VALLEY, START, at=at, seed=3)
            want = alone(VALLEY, START, seed=3)
            torch.testing.assert_close(got.grad["w"], want.grad["w"], rtol=1e-9, atol=0)
            assert got.evals == want.evals and got.info.keys() - want.info.keys() == {"length"}
        assert decayed.target == base.target


@pytest.mark.parametrize(("end", "rests"), [(1.0, 1 / (1 + 2 * 100 * 0.1**2)), (0.01, 1.0)])
def test_t3_descent_rests_where_the_last_eps_says(end, rests):
    w, decayed, steps = torch.nn.Parameter(START["w"].clone()), Decayed(CDG(0.1), end=end), 300
    adam = torch.optim.Adam([w], lr=0.1, betas=(0.9, 0.95))
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        w.grad = decayed(VALLEY, {"w": w.detach()}, at=Moment(step, steps)).grad["w"]
        adam.step()
    assert abs(float(w.detach()[0]) - rests) < 1e-2


def test_a_base_without_a_length_is_refused():
    for base in (BestOf(), NES(sigma="auto")):
        with pytest.raises(ValueError, match="has no eps or sigma that is a number"):
            Decayed(base)
    with pytest.raises(ValueError, match="makes the step itself|has no eps or sigma"):
        Decayed(Flow())
