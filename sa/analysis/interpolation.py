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
    """Both splits at theta_a = (1 - a) theta_0 + a theta_1 for a from ``low`` to ``high``.

    theta_0, theta_1: where the two trainings of ``ends`` ended; a = 0 and 1 are these very points,
    bit for bit (Goodfellow et al. 2015; Keskar et al. 2017 for two batch sizes). Of quantized
    layers the latent weights move and the network quantizes them: no other view has a line.

    Curves ``alpha``, ``train/loss``, ``test/loss`` and accuracies of classes. Numbers: ``barrier``
    and ``barrier/test``, the most that the loss on [0, 1] lies above the straight line between its
    values at the ends, >= 0 (Entezari et al. 2022; the mean of the ends, as in Frankle et al. 2020,
    differs where the summit is not in the middle); ``worst``, the whole line's largest training
    loss; ``distance``, |theta_1 - theta_0|; of align ``moved``, the share of hidden units that
    changed places; ``first/`` and ``second/``, the ends evaluated as their trainings did.

    Args:
        low: first value of a.
        high: last value of a.
        points: values of a in each unit of length.
        recalibrate: true re-estimates BatchNorm's statistics over the training rows at every a;
            false interpolates them too, running variances not below 0.
        align: true reorders the hidden units of the second network to match the first (Ainsworth
            et al. 2023). What it computes stays the same, and a = 1 is the reordered network. Works
            for chains of layers only.

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
            raise ValueError(f"[{self.low:g}, {self.high:g}] must hold both ends, 0 and 1")
        for name, a in (("low", self.low), ("high", self.high)):
            if abs(a * self.points - round(a * self.points)) > 1e-9 * self.points:
                step = f"points={self.points} are {1 / self.points:.4g} apart"
                raise ValueError(f"{name}={a:g} is none of the line's points: {step}, 0 among them")
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where units are to be aligned and may not change places."""
        if self.align and structure.bound is not None:
            raise ValueError(
                f"align: {structure.bound}; units are permuted in chains of fully connected layers "
                "and convolutions (fc_*, mlp*, toy_mlp, cnn*, vgg11*); set align=false"
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
        start, end = network.ends
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

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return the barrier and how far the ends are apart, in words."""
        if "interpolation/barrier" not in result:
            return []
        train, test, apart = (
            number(result[f"interpolation/{k}"]) for k in ("barrier", "barrier/test", "distance")
        )
        words = f"barrier {train}, test {test}; ends {apart} apart"
        if "interpolation/moved" in result:
            moved = result["interpolation/moved"]
            words += f", {moved:.0%} of the second's units put in another place"
        return [("interpolation", words)]


def mixed(start: Params, end: Params, alpha: float) -> Params:
    """(1 - alpha) start + alpha end, either end itself at 0 and 1; variances stay >= 0.

    What is counted, not measured (whole numbers), is the start's.
    """
    if alpha in (0, 1):
        return end if alpha else start
    out = {}
    for name, here in start.items():
        there = (1 - alpha) * here + alpha * end[name] if here.is_floating_point() else here
        out[name] = there.clamp_min(0) if name.endswith("running_var") else there
    return out
