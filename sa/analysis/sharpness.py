"""The rise of the loss around the run's point: in a box, a ball, and a relative ball."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.analysis import _finite
from sa.analysis._view import DERIVATIVES, VALUES, check, flippable, viewed
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import flatten, ranges, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Numbers, Params

_NEEDS = {"latent": DERIVATIVES, "quantized": DERIVATIVES, "smoothed": VALUES, "discrete": VALUES}


@dataclass(frozen=True, config=STRICT)
class Sharpness:
    """Sharpness at the run's point over all rows, in float64.

    In view ``latent`` or ``quantized``:

    - ``keskar`` 100 (max L(w + d) - L(w))/(1 + L(w)) over |d_i| <= epsilon (|w_i| + 1) (Keskar et
      al., ICLR 2017)
    - ``sam`` max L(w + d) - L(w) over |d| <= rho (Foret et al., ICLR 2021), and ``sam_step``, the
      same at the single step d = rho g/|g|
    - ``asam``, the same over |d/w| <= adaptive, d/w entry by entry (Kwon et al., ICML 2021)
    - ``lambda_max``, the largest eigenvalue of the Hessian

    Each maximum is the best of ``starts`` ascents of ``rounds`` steps d <- argmax g(w + d).d. They
    never leave the set, and on a convex loss they never descend. On a nonconvex loss the result is
    a lower bound.

    In view ``smoothed``: ``rise``, the mean of L(Q(w + sigma e)) - L(Q(w)) over ``draws`` normal e,
    and its standard error ``rise_error``. In view ``discrete``: ``flip_mean`` and ``flip_max``, the
    change of L when one binary weight flips, and ``flip_worse``, the share of flips that raise L,
    over ``flips`` weights drawn at random.

    Losses that are not finite are left out; ``nonfinite`` counts them.

    Args:
        view: numbers that the loss is a function of: ``latent``, the weights that are trained;
            ``quantized``, the quantized weights as if they were free; ``smoothed``, the mean loss
            under gaussian noise on the latent weights; ``discrete``, single flips of binary
            weights.
        epsilon: half-width of Keskar's box, relative to |w_i| + 1.
        rho: radius of the ball of SAM, in the units of the weights.
        adaptive: radius of the ball of adaptive SAM, in which d_i is measured relative to |w_i|.
        rounds: steps of one ascent.
        starts: ascents for each maximum, which is the best of them.
        sigma: standard deviation of the noise with view=smoothed, in the units of the weights.
        draws: draws of the noise with view=smoothed, 2 or more.
        flips: binary weights to flip with view=discrete, drawn at random; null for all.

    """

    view: Literal["latent", "quantized", "smoothed", "discrete"] = "latent"
    epsilon: Annotated[float, Gt(0)] = 1e-3
    rho: Annotated[float, Gt(0)] = 0.05
    adaptive: Annotated[float, Gt(0)] = 0.5
    rounds: Annotated[int, Gt(0)] = 20
    starts: Annotated[int, Gt(0)] = 3
    sigma: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Ge(2)] = 64
    flips: Annotated[int, Gt(0)] | None = 1000

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if this sharpness has no meaning in the view."""
        check(structure, self.view, _NEEDS, "this sharpness")

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``sharpness/``."""
        whole, point = viewed(objective, params, self.view)
        loss = float(whole.value(point))
        if not math.isfinite(loss):
            raise Diverged("the loss at the point is not finite")
        if self.view == "smoothed":
            out = self._smoothed(whole, point, loss, generator)
        elif self.view == "discrete":
            out = self._discrete(whole, point, loss, generator)
        else:
            with surrogate.exact_gradients():  # even if trainings quantize gradients
                out = self._continuous(whole, point, loss, generator)
        return {f"sharpness/{k}": v for k, v in ({"loss": loss} | out).items()}

    def _continuous(
        self, whole: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        """Return the sharpness in boxes and balls, and lambda_max."""
        w = flatten(point)
        box, ones = self.epsilon * (w.abs() + 1), torch.ones_like(w)
        first = flatten(whole.value_and_grad(point)[1])
        step = self.rho * first / first.norm().clamp(min=1e-300)
        rise, lost = self._most(whole, point, box, None, generator)
        sam, more = self._most(whole, point, ones, self.rho, generator)
        asam, most = self._most(whole, point, w.abs(), self.adaptive, generator)
        return {
            "keskar": 100 * rise / (1 + loss),
            "sam": sam,
            "sam_step": float(whole.value(unflatten(w + step, point))) - loss,
            "asam": asam,
            "lambda_max": float(whole.curvature(point).top(1, generator).values[0]),
            "nonfinite": float(lost + more + most),
            "diverged": 0.0,
        }

    def _most(
        self, whole: Objective, point: Params, t: Tensor, radius: float | None, generator: object
    ) -> tuple[float, int]:
        """Return the largest rise over |d_i| <= t_i, or |d/t| <= radius; losses left out."""
        w, loss = flatten(point), float(whole.value(point))

        def furthest(g: Tensor) -> Tensor:  # the d of the set with the largest g.d
            if radius is None:
                return t * g.sign()
            return radius * t.square() * g / (t * g).norm().clamp(min=1e-300)

        best, left_out = 0.0, 0
        for start in range(self.starts):
            draw = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)  # type: ignore[call-overload]
            d = torch.zeros_like(w) if start == 0 else furthest(draw)
            for _ in range(self.rounds + 1):
                value, grad = whole.value_and_grad(unflatten(w + d, point))
                g = flatten(grad)
                if value.isfinite():
                    best = max(best, float(value) - loss)
                left_out += not value.isfinite()
                if not (value.isfinite() and g.isfinite().all()):
                    break
                new = furthest(g if bool(g.any()) else draw)
                if bool((new - d).abs().max() <= 1e-12 * new.abs().max()):
                    break
                d = new
        return best, left_out

    def _smoothed(
        self, whole: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        """Return the mean rise under noise and its standard error."""
        w = flatten(point)
        shape = self.draws, len(w)
        noise = torch.randn(shape, generator=generator, dtype=w.dtype, device=w.device)
        rises = whole.values(unflatten(w + self.sigma * noise, point)) - loss
        sound = rises[rises.isfinite()]
        error = float(sound.std()) / math.sqrt(len(sound)) if len(sound) > 1 else math.nan
        return {"rise": _finite.mean(rises), "rise_error": error} | _finite.counted(rises)

    def _discrete(
        self, whole: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        """Return the changes of the loss by single flips."""
        names = flippable(whole.structure, point)
        weights = [(k, i) for k in names for i in range(point[k].numel())]
        order = torch.randperm(len(weights), generator=generator, device=generator.device)
        drawn = [weights[i] for i in order[: self.flips or len(weights)].sort().values.tolist()]
        rises = []
        for name in names:
            index = torch.tensor([i for k, i in drawn if k == name])
            for start, stop in ranges(len(index), 64):
                at = index[start:stop].to(point[name].device)
                flat = point[name].flatten().expand(len(at), -1).clone()
                each = torch.arange(len(at), device=flat.device)
                # 0 counts as +1 (sa.quantizer.sign): it flips to a tiny negative number
                flat[each, at] = torch.where(flat[each, at] == 0, -1e-300, -flat[each, at])
                stack = {name: flat.view(len(at), *point[name].shape)}
                rises.append(whole.values(stack, point) - loss)
        rise = torch.cat(rises)
        sound = rise[rise.isfinite()]
        out = {"flip_mean": _finite.mean(rise), "flip_max": _finite.most(rise)}
        out["flip_worse"] = float((sound > 0).double().mean())
        return {**out, "flips": float(len(rise))} | _finite.counted(rise)

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return every sharpness in words."""
        shown = [
            f"{k} {number(result[f'sharpness/{k}'])}"
            for k in ("keskar", "sam", "asam", "lambda_max", "rise", "flip_mean", "flip_max")
            if f"sharpness/{k}" in result
        ]
        return [("sharpness", ", ".join(shown))] if shown else []
