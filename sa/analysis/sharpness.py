"""How much the loss rises around the run's point: in a box, a ball, a ball of relative size."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.analysis import _finite
from sa.analysis._view import DERIVATIVES, VALUES, check, flippable, seen
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import blocks, flatten, unflatten
from sa.table.names import number
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Numbers, Params

_NEEDS = {"latent": DERIVATIVES, "quantized": DERIVATIVES, "smoothed": VALUES, "discrete": VALUES}


@dataclass(frozen=True, config=STRICT)
class Sharpness:
    """Sharpness at the run's point over all rows, in float64.

    view ``latent`` or ``quantized``: ``keskar`` 100 (max L(w + d) - L(w))/(1 + L(w)) over |d_i| <=
    epsilon (|w_i| + 1) (Keskar et al. 2017); ``sam`` max L(w + d) - L(w) over |d| <= rho (Foret et
    al. 2021), ``sam_step`` the same at the one step d = rho g/|g|; ``asam`` over |d/w| <=
    adaptive, entry by entry (Kwon et al. 2021); ``lambda_max``, of the Hessian. Each maximum is
    the best of ``starts`` ascents of ``rounds`` steps d <- argmax g(w + d).d, which never leave
    the set and, on a convex loss, never descend: of a nonconvex loss it is a lower bound.
    ``smoothed``: ``rise`` E L(Q(w + sigma e)) - L(Q(w)) of ``draws`` normal e, and ``rise_error``,
    its standard error. ``discrete``: ``flip_mean``, ``flip_max`` of L's change as one binary
    weight flips and ``flip_worse``, the share that raise it, of ``flips`` weights drawn at random.
    Losses that are not finite are left out: ``nonfinite`` counts them.

    Args:
        view: what the loss is a function of: ``latent``, the weights that are trained;
            ``quantized``, the quantized weights as if they were free; ``smoothed``, the mean loss
            under gaussian noise on the latent weights; ``discrete``, single flips of binary
            weights.
        epsilon: half-width of Keskar's box, relative to |w_i| + 1.
        rho: radius of SAM's ball, in the units of the weights.
        adaptive: half-width of adaptive SAM's box, relative to |w_i|.
        rounds: steps of one ascent.
        starts: ascents of which a maximum is the best.
        sigma: of view=smoothed, standard deviation of the noise, in the units of the weights.
        draws: of view=smoothed, draws of the noise.
        flips: of view=discrete, binary weights that are flipped, drawn at random; null for all.

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
        """Raise ValueError where the view has no meaning, naming what has."""
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
        mine, point = seen(objective, params, self.view)
        loss = float(mine.value(point))
        if not math.isfinite(loss):
            raise Diverged("the loss at the point is not finite")
        if self.view == "smoothed":
            out = self._smoothed(mine, point, loss, generator)
        elif self.view == "discrete":
            out = self._discrete(mine, point, loss, generator)
        else:
            with surrogate.exact_gradients():  # the loss' own, whatever trainings quantize
                out = self._continuous(mine, point, loss, generator)
        return {f"sharpness/{k}": v for k, v in ({"loss": loss} | out).items()}

    def _continuous(
        self, mine: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        w = flatten(point)
        box, ones = self.epsilon * (w.abs() + 1), torch.ones_like(w)
        first = flatten(mine.value_and_grad(point)[1])
        step = self.rho * first / first.norm().clamp(min=1e-300)
        rise, lost = self._most(mine, point, box, None, generator)
        sam, more = self._most(mine, point, ones, self.rho, generator)
        asam, most = self._most(mine, point, w.abs(), self.adaptive, generator)
        return {
            "keskar": 100 * rise / (1 + loss),
            "sam": sam,
            "sam_step": float(mine.value(unflatten(w + step, point))) - loss,
            "asam": asam,
            "lambda_max": float(mine.curvature(point).top(1, generator).values[0]),
            "nonfinite": float(lost + more + most),
            "diverged": 0.0,
        }

    def _most(
        self, mine: Objective, point: Params, t: Tensor, radius: float | None, generator: object
    ) -> tuple[float, int]:
        """The largest rise over |d_i| <= t_i, or |d/t| <= radius; how many losses were lost."""
        w, loss = flatten(point), float(mine.value(point))

        def furthest(g: Tensor) -> Tensor:
            if radius is None:
                return t * g.sign()
            return radius * t.square() * g / (t * g).norm().clamp(min=1e-300)

        best, left_out = 0.0, 0
        for start in range(self.starts):
            draw = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)  # type: ignore[call-overload]
            d = torch.zeros_like(w) if start == 0 else furthest(draw)
            for _ in range(self.rounds + 1):
                value, grad = mine.value_and_grad(unflatten(w + d, point))
                g = flatten(grad)
                if value.isfinite():
                    best = max(best, float(value) - loss)
                left_out += not value.isfinite()
                if not (value.isfinite() and g.isfinite().all()):
                    break  # there is no way up from here
                new = furthest(g if bool(g.any()) else draw)
                if bool((new - d).abs().max() <= 1e-12 * new.abs().max()):
                    break
                d = new
        return best, left_out

    def _smoothed(
        self, mine: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        w = flatten(point)
        shape = self.draws, len(w)
        noise = torch.randn(shape, generator=generator, dtype=w.dtype, device=w.device)
        rises = mine.values(unflatten(w + self.sigma * noise, point)) - loss
        sound = rises[rises.isfinite()]
        error = float(sound.std()) / math.sqrt(len(sound)) if len(sound) > 1 else math.nan
        return {"rise": _finite.mean(rises), "rise_error": error} | _finite.counted(rises)

    def _discrete(
        self, mine: Objective, point: Params, loss: float, generator: torch.Generator
    ) -> Numbers:
        names = flippable(mine.structure, point)
        of = [(k, i) for k in names for i in range(point[k].numel())]
        order = torch.randperm(len(of), generator=generator, device=generator.device)
        places = order[: self.flips or len(of)].sort().values.tolist()
        rises = []
        for name in names:
            mine_at = torch.tensor([of[i][1] for i in places if of[i][0] == name])
            for start, stop in blocks(len(mine_at), 64):
                at = mine_at[start:stop].to(point[name].device)
                flat = point[name].flatten().expand(len(at), -1).clone()
                there = torch.arange(len(at), device=flat.device)
                # 0 is +1 (sa.quantizer.sign): its other side is the least number below
                flat[there, at] = torch.where(flat[there, at] == 0, -1e-300, -flat[there, at])
                stack = {name: flat.view(len(at), *point[name].shape)}
                rises.append(mine.values(stack, point) - loss)
        rise = torch.cat(rises)
        sound = rise[rise.isfinite()]
        out = {"flip_mean": _finite.mean(rise), "flip_max": _finite.most(rise)}
        out["flip_worse"] = float((sound > 0).double().mean())
        return {**out, "flips": float(len(rise))} | _finite.counted(rise)

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return every sharpness in words."""
        said = [
            f"{k} {number(result[f'sharpness/{k}'])}"
            for k in ("keskar", "sam", "asam", "lambda_max", "rise", "flip_mean", "flip_max")
            if f"sharpness/{k}" in result
        ]
        return [("sharpness", ", ".join(said))] if said else []
