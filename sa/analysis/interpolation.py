"""Loss and accuracy on the straight line through the end points of two trainings."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from sa.analysis import _finite
from sa.analysis._align import matched, permuted
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Interpolation:
    """Loss and accuracy at theta_a = (1 - a) theta_0 + a theta_1 for a from ``low`` to ``high``.

    theta_0 and theta_1 are the last points of the two trainings of ``ends``; a = 0 and a = 1 are
    exactly these points. In quantized layers the latent weights move, and the network quantizes
    them.

    Curves: ``alpha``, ``train/loss``, ``test/loss`` and, with classes, the accuracies. Numbers:

    - ``barrier`` and ``barrier/test``, >= 0: the most by which the loss on [0, 1] exceeds the
      straight line between its values at both ends (Entezari et al. 2022). Frankle et al. 2020 use
      the mean of both ends instead, which differs if the maximum is not in the middle
    - ``worst``: the largest training loss of the line
    - ``distance`` |theta_1 - theta_0|
    - ``moved``, with align: the share of hidden units that changed places
    - ``first/`` and ``second/``: the evaluations of the two end points

    Papers: Goodfellow, Vinyals & Saxe, ICLR 2015; Keskar et al., ICLR 2017, for two batch sizes;
    Frankle et al., ICML 2020; Entezari et al., ICLR 2022.

    Args:
        low: first value of a, from -10 to 0.
        high: last value of a, 1 or more.
        points: values of a in each unit of length, 2 or more.
        recalibrate: true estimates BatchNorm's statistics over the training rows at every a; false
            interpolates them, with running variances clamped at 0.
        align: true permutes the hidden units of the second network to match the first (Ainsworth et
            al., ICLR 2023). The permuted network computes the same function; a = 1 is the permuted
            network. Works for chains of layers only.

    """

    low: Annotated[float, Ge(-10)] = -1.0
    high: float = 2.0
    points: Annotated[int, Ge(2)] = 10
    recalibrate: bool = True
    align: bool = False

    between: ClassVar[bool] = True

    @model_validator(mode="after")
    def _holds_both(self) -> "Interpolation":
        if self.low > 0 or self.high < 1:
            raise ValueError(
                f"low={self.low:g} and high={self.high:g} must hold both ends; set low <= 0 and "
                "high >= 1"
            )
        for name, a in (("low", self.low), ("high", self.high)):
            if abs(a * self.points - round(a * self.points)) > 1e-9 * self.points:
                step = f"points={self.points} are {1 / self.points:.4g} apart"
                raise ValueError(f"{name}={a:g} is none of the line's points: {step}, 0 among them")
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if align=true and the units cannot be permuted."""
        if self.align and structure.why_not_permutable is not None:
            raise ValueError(
                f"align: {structure.why_not_permutable}; units are permuted in chains of fully "
                "connected layers and convolutions (fc_*, mlp*, toy_mlp, cnn*, vgg11*); set "
                "align=false"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``interpolation/``."""
        network = objective.evaluation
        assert network is not None
        start, end = network.ends  # (parameters, statistics) of each training
        out: Numbers = {}
        if self.align:
            layers = objective.structure.units
            orders = matched(start[0], end[0], layers)
            for units, order in zip(layers, orders, strict=True):
                end = permuted(end[0], units, order), permuted(end[1], units, order)
            places = torch.cat([o != torch.arange(len(o)) for o in orders] or [torch.zeros(1)])
            out["moved"] = float(places.double().mean())
        curves: dict[str, list[float]] = {}
        first, last = round(self.low * self.points), round(self.high * self.points)
        alphas = [k / self.points for k in range(first, last + 1)]
        for alpha in alphas:
            point = mixed(start[0], end[0], alpha)
            statistics = mixed(start[1], end[1], alpha)
            if self.recalibrate:
                statistics = network.recalibrate(point, statistics)
            for key, value in network.evaluate(point, statistics).items():
                assert isinstance(value, float)
                curves.setdefault(key, []).append(value)
        out |= {"alpha": alphas, **curves}
        for key, name in (("train/loss", "barrier"), ("test/loss", "barrier/test")):
            inside = [(a, x) for a, x in zip(alphas, curves[key], strict=True) if 0 <= a <= 1]
            low, high = inside[0][1], inside[-1][1]
            above = [x - (1 - a) * low - a * high for a, x in inside]
            out[name] = _finite.most(torch.tensor(above, dtype=torch.float64))
        line = torch.tensor(curves["train/loss"], dtype=torch.float64)
        out |= {"worst": _finite.most(line)} | _finite.counted(line)
        square = sum(float((end[0][k] - p).double().square().sum()) for k, p in start[0].items())
        out["distance"] = square**0.5
        for name, (point, statistics) in zip(("first", "second"), network.ends, strict=True):
            out |= {f"{name}/{k}": v for k, v in network.evaluate(point, statistics).items()}
        return {f"interpolation/{k}": v for k, v in out.items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the barrier and the distance of the ends in words."""
        if "interpolation/barrier" not in result:
            return []
        train, test, apart = (
            number(result[f"interpolation/{k}"]) for k in ("barrier", "barrier/test", "distance")
        )
        text = f"barrier {train}, test {test}; ends {apart} apart"
        if "interpolation/moved" in result:
            moved = result["interpolation/moved"]
            text += f", {moved:.0%} of the second's units put in another place"
        return [("interpolation", text)]


def mixed(start: Params, end: Params, alpha: float) -> Params:
    """Return (1 - alpha) start + alpha end: exactly start at 0 and end at 1.

    Variances stay >= 0. Tensors of whole numbers are counts, which are taken from start.
    """
    if alpha in (0, 1):
        return end if alpha else start
    out = {}
    for name, here in start.items():
        there = (1 - alpha) * here + alpha * end[name] if here.is_floating_point() else here
        out[name] = there.clamp_min(0) if name.endswith("running_var") else there
    return out
