"""Quantization error of each tensor: clipping, rounding, levels used, bits needed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.network.structure import Structure
from sa.network.traits import traits
from sa.objective.objective import Objective
from sa.table.names import number
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params, Quantizer


@dataclass(frozen=True, config=STRICT)
class QuantError:
    """The error q(x) - x of every quantized tensor x: weights, and activations of the first rows.

    Under ``<layer>.<slot>/``:

    - ``mse``, and ``sqnr`` 10 log10(sum x^2 / sum (q - x)^2) in dB
    - ``clipping``: the share of the squared error that is overload distortion, from elements beyond
      the outermost level used by more than half the step there; ``rounding``: the rest, granular
      distortion (Gersho & Gray, "Vector quantization and signal compression", 1992)
    - ``clipped``: the share of the clipped elements
    - ``levels``: how many values are used, the mean over groups with levels of their own
    - ``bits``: declared bits
    - ``needed``: for each channel (first dimension of weights, second of activations), the fewest
      bits, 2 or more, with which the ruler reaches ``sqnr``; most + 1 if no bits do
    - ``needed_mean`` and ``needed_most``: the mean and the largest of ``needed``

    ``worst`` is the tensor with the lowest SQNR, and ``least`` that SQNR.

    Args:
        ruler: quantizer with ``bits`` and one scale for each channel; measures the needed bits.
        sqnr: signal-to-noise ratio that ``needed`` bits must reach, in dB.
        most: largest number of bits to try, from 2 to 24.
        rows: use only the first so many rows for the activations.

    """

    ruler: Quantizer
    sqnr: Annotated[float, Gt(0)] = 30.0
    most: Annotated[int, Ge(2), Le(24)] = 16
    rows: Annotated[int, Ge(1)] = 1024

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if neither weights nor activations are quantized."""
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
        ratios: dict[str, float] = {}
        for layer in objective.layers(params, self.rows):
            own = traits(layer.quantize)
            if own.bits is None:
                continue
            if layer.weight is None:
                name, axis, x, q = "activation", min(1, layer.inputs.dim() - 1), layer.inputs, None
            else:
                name, axis, x, q = "weight", 0, layer.weight, layer.used
            numbers = split(x, layer.outputs if q is None else q, own.granularity, axis)
            needed = self._needed(x.double().movedim(axis, 0).flatten(1))
            numbers |= {"bits": float(own.bits), "needed": needed}
            numbers |= {"needed_mean": sum(needed) / len(needed), "needed_most": max(needed)}
            out |= {f"{layer.name}.{name}/{k}": v for k, v in numbers.items()}
            ratios[f"{layer.name}.{name}"] = float(numbers["sqnr"])  # type: ignore[arg-type]
        ratios = {k: v for k, v in ratios.items() if not math.isnan(v)}
        if ratios:
            out["worst"] = min(ratios, key=lambda k: ratios[k])
            out["least"] = min(ratios.values())
        return {f"quant_error/{k}": v for k, v in out.items()}

    def _needed(self, rows: Tensor) -> list[float]:
        """Return the fewest bits with which the ruler reaches the ratio, for each row."""
        ruler: Any = self.ruler
        needed = torch.full((len(rows),), self.most + 1.0, dtype=torch.float64)
        power = rows.square().sum(1)
        for bits in range(self.most, 1, -1):
            error = (replace(ruler, bits=bits)(rows) - rows).square().sum(1)
            enough = (needed == bits + 1) & (power >= 10 ** (self.sqnr / 10) * error)
            needed = torch.where(enough, float(bits), needed)
        return needed.tolist()

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the tensor with the lowest SQNR in words."""
        if "quant_error/worst" not in result:
            return []
        worst, least = result["quant_error/worst"], number(result["quant_error/least"])
        clipping = result[f"quant_error/{worst}/clipping"]
        text = f"{worst}: {least} dB, {clipping:.0%} of the squared error by clipping"
        return [("worst SQNR", text)]


def split(x: Tensor, y: Tensor, granularity: str, axis: int) -> Numbers:
    """Return the numbers of `QuantError` of x and its quantized y, except those about bits."""
    x, y = x.double(), y.double()
    error = (y - x).square()
    over = over_error = 0.0
    used = []
    for a, b in _groups(x, y, granularity, axis):
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
    """Yield the groups of elements that share levels, before and after quantization."""
    if granularity == "tensor":
        yield x.flatten(), y.flatten()
        return
    axis = 0 if granularity == "sample" else axis
    size = int(granularity.partition(":")[2] or 0)
    for a, b in zip(x.movedim(axis, 0).flatten(1), y.movedim(axis, 0).flatten(1), strict=True):
        yield from zip(a.split(size or len(a)), b.split(size or len(b)), strict=True)


def _distinct(y: Tensor) -> Tensor:
    """Return the levels in y, ascending; numbers that differ by rounding are one level."""
    values = y.unique()
    gap = 1e-6 * float(values[-1] - values[0])
    return torch.cat([values[:1], values[1:][values.diff() > gap]])
