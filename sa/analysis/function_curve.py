"""The function that a network of one input has learnt, beside the true one."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass

from sa.analysis import _finite
from sa.network.hooks import trait
from sa.objective.objective import Objective
from sa.table.names import number
from sa.types import PROBE, STRICT, Dataset, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class FunctionCurve:
    """The outputs of a network at held-out inputs, in ascending order.

    Curves: ``x``, ``truth`` and ``value``. Numbers over all held-out rows: ``rmse`` and ``worst``,
    the root mean square and the largest absolute error; ``spread``, the standard deviation of the
    outputs divided by that of the targets; ``collapsed``, 1 if ``spread`` is below the setting of
    that name. ``nonfinite`` counts the rows whose output is not finite; they are left out.

    Args:
        points: held-out rows of the curves, evenly chosen, 2 or more.
        collapsed: the network counts as a constant if the standard deviation of its outputs is
            below this share of that of the targets.

    """

    points: Annotated[int, Ge(2)] = 200
    collapsed: Annotated[float, Gt(0)] = 0.01

    def takes(self, data: Dataset) -> None:
        """Raise ValueError if the data are not a function of one number."""
        if tuple(data.shape) != (1,) or trait(data, "outputs") != 1:
            raise ValueError(
                f"function_curve draws functions of one number, and {type(data).__name__} is none; "
                "take dataset=sinc, sinc_pi or chebyshev"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``function_curve/``."""
        rows, network = (objective.heldout or objective).batch, objective.evaluation
        assert network is not None
        x, truth = rows.inputs[:, 0], rows.targets[:, 0]
        value = network.outputs(params, rows.inputs)[:, 0]
        apart = (value - truth).double()
        ok = value.isfinite()
        spread = float(value[ok].double().std(correction=0) / truth.double().std(correction=0))
        shown = torch.linspace(0, len(x) - 1, min(self.points, len(x))).round().long()
        shown = x.argsort()[shown.to(x.device)]
        out: Numbers = {
            "x": x[shown].tolist(),
            "truth": truth[shown].tolist(),
            "value": value[shown].tolist(),
            "rmse": _finite.mean(apart.square()) ** 0.5,
            "worst": _finite.most(apart.abs()),
            "spread": spread,
            "collapsed": float(spread < self.collapsed),
        }
        out |= _finite.counted(value)
        return {f"function_curve/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the error of the curve in words."""
        if "function_curve/rmse" not in result:
            return []
        dead = "; COLLAPSED to a constant" if result["function_curve/collapsed"] else ""
        text = f"root mean square error {number(result['function_curve/rmse'])}{dead}"
        return [("function", text)]
