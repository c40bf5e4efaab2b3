"""What quantization costs each tensor: clipping against rounding, levels used, bits needed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, Quantizer


@dataclass(frozen=True, config=STRICT)
class QuantError:
    """The error q(x) - x of every quantized tensor x: weights, and activations of the first rows.

    By ``<layer>.<slot>/``: ``mse``; ``sqnr`` 10 log10(sum x^2 / sum (q - x)^2) in dB; ``clipping``,
    the share of the squared error that is overload distortion, of elements beyond the outermost
    level used by more than half the step there, ``rounding`` the rest, granular distortion (Gersho
    & Gray 1992); ``clipped``, the share of those elements; ``levels``, values used, mean over
    groups with levels of their own; ``bits``, declared; ``needed``, the fewest bits, 2 or more, at
    which the ruler reaches ``sqnr``, by channel (first dimension of weights, second of
    activations); most + 1 where none does; ``needed_mean`` and ``needed_most`` over channels. And
    ``least``, the lowest SQNR, of ``worst``.

    Args:
        ruler: quantizer with ``bits``, one scale a channel, that measures the bits that are
            needed.
        sqnr: signal-to-noise ratio that ``needed`` bits reach, in dB.
        most: bits of the ruler that are tried, at most.
        rows: rows of the activations, the first ones.

    """

    ruler: Quantizer
    sqnr: Annotated[float, Gt(0)] = 30.0
    most: Annotated[int, Ge(2), Le(24)] = 16
    rows: Annotated[int, Ge(1)] = 1024

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where neither weights nor activations are quantized."""
        if not any(k.endswith((".weight", ".activation")) for k in structure.quantized):
            raise ValueError(
                "neither weights nor activations are quantized; take e.g. quantizer=fixed8 or w2a2"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``quant_error/``."""
        out: Numbers = {}
        found: dict[str, float] = {}
        for layer in objective.layers(params, self.rows):
            spec: Any = getattr(layer.quantize, "spec", layer.quantize)
            if not hasattr(spec, "bits"):
                continue
            if layer.weight is None:
                name, axis, x, q = "activation", min(1, layer.inputs.dim() - 1), layer.inputs, None
            else:
                name, axis, x, q = "weight", 0, layer.weight, layer.used
            told = split(x, layer.outputs if q is None else q, spec, axis)
            needed = self._needed(x.double().movedim(axis, 0).flatten(1))
            told |= {"bits": float(spec.bits), "needed": needed}
            told |= {"needed_mean": sum(needed) / len(needed), "needed_most": max(needed)}
            out |= {f"{layer.name}.{name}/{k}": v for k, v in told.items()}
            found[f"{layer.name}.{name}"] = float(told["sqnr"])  # type: ignore[arg-type]
        found = {k: v for k, v in found.items() if not math.isnan(v)}
        if found:
            out["worst"] = min(found, key=lambda k: found[k])
            out["least"] = min(found.values())
        return {f"quant_error/{k}": v for k, v in out.items()}

    def _needed(self, rows: Tensor) -> list[float]:
        ruler: Any = self.ruler
        needed = torch.full((len(rows),), self.most + 1.0, dtype=torch.float64)
        power = rows.square().sum(1)
        for bits in range(self.most, 1, -1):
            error = (replace(ruler, bits=bits)(rows) - rows).square().sum(1)
            enough = (needed == bits + 1) & (power >= 10 ** (self.sqnr / 10) * error)
            needed = torch.where(enough, float(bits), needed)
        return needed.tolist()

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return the tensor with the lowest SQNR in words."""
        if "quant_error/worst" not in result:
            return []
        worst, least = result["quant_error/worst"], number(result["quant_error/least"])
        clipping = result[f"quant_error/{worst}/clipping"]
        words = f"{worst}: {least} dB, {clipping:.0%} of the squared error by clipping"
        return [("worst SQNR", words)]


def split(x: Tensor, y: Tensor, spec: Any, axis: int) -> Numbers:
    """Numbers of `QuantError` of x and its quantized y, but for the bits."""
    x, y = x.double(), y.double()
    error = (y - x).square()
    over = over_error = 0.0
    used = []
    for a, b in _groups(x, y, getattr(spec, "granularity", "tensor"), axis):
        levels = _distinct(b)
        used.append(float(len(levels)))
        if len(levels) > 1:
            below = a < levels[0] - (levels[1] - levels[0]) / 2
            beyond = below | (a > levels[-1] + (levels[-1] - levels[-2]) / 2)
            over += float(beyond.sum())
            over_error += float((b - a).square()[beyond].sum())
    total = float(error.sum())
    ratio = float(x.square().sum()) / total if total else math.inf
    return {
        "mse": total / x.numel(),
        "sqnr": 10 * math.log10(ratio) if ratio else -math.inf,
        "clipping": over_error / total if total else 0.0,
        "rounding": 1 - over_error / total if total else 0.0,
        "clipped": over / x.numel(),
        "levels": sum(used) / len(used),
    }


def _groups(x: Tensor, y: Tensor, granularity: str, axis: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Elements that share their levels, before and after."""
    if granularity == "tensor":
        yield x.flatten(), y.flatten()
        return
    axis = 0 if granularity == "sample" else axis
    size = int(granularity.partition(":")[2] or 0)
    for a, b in zip(x.movedim(axis, 0).flatten(1), y.movedim(axis, 0).flatten(1), strict=True):
        yield from zip(a.split(size or len(a)), b.split(size or len(b)), strict=True)


def _distinct(y: Tensor) -> Tensor:
    """The values of y, ascending; one level may be several neighbouring numbers."""
    values = y.unique()
    gap = 1e-6 * float(values[-1] - values[0])
    return torch.cat([values[:1], values[1:][values.diff() > gap]])
