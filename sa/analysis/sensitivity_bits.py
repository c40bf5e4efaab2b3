"""The loss by each layer's bits, proxies that predict it, and the best bits under a budget."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis import _allocation, _finite, _proxy
from sa.analysis._allocation import Choice, Losses
from sa.analysis._bits import prices
from sa.analysis._view import numbers
from sa.network.structure import Structure
from sa.network.traits import for_layer, traits
from sa.objective.objective import Objective
from sa.table.names import number
from sa.types import PROBE, STRICT, Diverged, Estimate, Moment, Numbers, Params, Quantizer

FULL = -1
"""In a choice: the layer stays in full precision."""


@dataclass(frozen=True, config=STRICT)
class SensitivityBits:
    """L(w with Q_b(w_l) in place of w_l) for every layer l and bit width b.

    Layers are the moving parameters of two or more dimensions; of a formula, all parameters. Each
    layer has ``<layer>/loss`` over ``bits``, and proxies that predict the rise of the loss, with
    d = Q_b(w_l) - w_l:

    - ``gradient`` g.d, with g of the run's estimator
    - ``curvature`` tr(H_ll)/(2 n_l) |d|^2 (HAWQ-V2; Dong et al., NeurIPS 2020), with the trace of
      the true Hessian from differences of gradients
    - ``taylor``, the sum of these two
    - ``error`` |d|^2

    ``kendall/<proxy>`` and ``spearman/<proxy>`` are rank correlations with the measured rise over
    all layers and widths. ``kendall_layers/<proxy>`` is over layers, as a mean over widths, for
    three layers or more.

    ``pairs`` (layers x layers, row by row) holds the rise of both layers of a pair less the sum of
    their single rises, at ``pair_bits``. ``interaction`` is the sum of the absolute values of these
    numbers over pairs, divided by the sum of the absolute sums of single rises.

    Four methods then choose the bits of all layers under a budget: ``even`` takes the most bits
    that are the same for all layers; ``greedy`` descends on the measured loss; ``ilp`` solves an
    integer linear program, which is exact if the rises of layers add up; ``anneal`` starts from the
    best of these. Each has ``bits`` for each layer, ``loss``, ``heldout``, and ``spent``, the mean
    bits. ``gain`` is the loss of ``even`` less the lowest of the other losses. ``points`` is how
    many losses were computed, no point twice; ``asked`` is how many were used; ``nonfinite`` is how
    many are not finite. Those count as the worst.

    Args:
        quantizer: Q_b, any quantizer with ``bits``, which are replaced.
        bits: b, two or more bit widths to try, ascending.
        budget: mean bits, weighted by the price; at least the fewest of bits.
        price: cost of one bit of a layer: its weights (``weights``), or the bit operations of its
            affine map (``bops``).
        pair_bits: bit width of the pairs of layers, one of bits; null for the fewest.
        probes: Hutchinson draws of each layer for the trace of the Hessian; 0 for no curvature.
        anneal: moves of simulated annealing; 0 for none.

    """

    quantizer: Quantizer
    bits: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(2)] = (2, 3, 4, 6, 8)
    budget: Annotated[float, Gt(0)] = 4.0
    price: Literal["weights", "bops"] = "weights"
    pair_bits: int | None = None
    probes: Annotated[int, Ge(0)] = 4
    anneal: Annotated[int, Ge(0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> "SensitivityBits":
        if list(self.bits) != sorted(set(self.bits)):
            raise ValueError(f"bits={list(self.bits)}: expected different widths, ascending")
        if self.budget < self.bits[0]:
            raise ValueError(
                f"budget={self.budget:g}: no layer has fewer than {self.bits[0]} bits; set budget "
                f"to {self.bits[0]} or more, or add a smaller number to bits"
            )
        if self.pair_bits not in (None, *self.bits):
            raise ValueError(f"pair_bits={self.pair_bits}: expected one of {list(self.bits)}")
        if traits(self.quantizer).bits is None:
            raise ValueError("quantizer: its bits cannot be set; take e.g. uniform or fixed_point")
        for b in self.bits:
            self._with(b)
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if weights are quantized already."""
        quantized = [k for k in structure.quantized if k.endswith(".weight")]
        if quantized:
            raise ValueError(
                "sensitivity_bits quantizes weights that are in full precision; "
                f"{', '.join(quantized)} are quantized already; set quantizer/weight=none"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers and curves under ``sensitivity_bits/``."""
        numbers(params)
        params = {k: p.detach() for k, p in params.items()}
        full = [k for k, p in params.items() if p.numel()]
        names = [k for k in full if params[k].dim() > 1] or full
        unit = self._prices(objective, params, names)
        low = {
            (n, k): self._quantized(params[n], b) for n in names for k, b in enumerate(self.bits)
        }

        def point(choice: Choice) -> Params:
            chosen = zip(names, choice, strict=True)
            return params | {n: low[n, k] for n, k in chosen if k != FULL}

        losses = Losses(lambda choice: float(objective.value(point(choice))))
        base = losses((FULL,) * len(names))
        if not math.isfinite(base):
            raise Diverged("the loss at the point is not finite")
        rises = np.array(
            [[losses(_only(names, {n: k})) - base for k in range(len(self.bits))] for n in names]
        )
        out: Numbers = {"layers": ",".join(names), "bits": [float(b) for b in self.bits]}
        moved = {
            n: [(low[n, k] - params[n]).double() for k in range(len(self.bits))] for n in names
        }
        traces = _proxy.traces(objective, params, names, self.probes, generator)
        out |= _proxy.compared(moved, rises, estimate.grad, traces)
        out |= {f"{n}/loss": (base + r).tolist() for n, r in zip(names, rises, strict=True)}
        out |= self._pairs(losses, names, base, rises)
        out |= self._allocate(objective, losses, point, rises, unit, generator)
        out |= {"base": base, "points": float(len(losses.known)), "asked": float(losses.asked)}
        known = torch.tensor(list(losses.known.values()), dtype=torch.float64)
        out |= _finite.counted(known)
        return {f"sensitivity_bits/{k}": v for k, v in out.items()}

    def _with(self, bits: int) -> Any:
        """Return the quantizer with other bits."""
        quantizer: Any = self.quantizer
        return replace(quantizer, bits=bits)

    def _quantized(self, w: Tensor, bits: int) -> Tensor:
        """Return the weights quantized to some bits."""
        quantize = for_layer(self._with(bits), w)
        with torch.no_grad():
            return quantize(w).detach()

    def _prices(self, objective: Objective, params: Params, names: list[str]) -> list[float]:
        """Return the price of one bit of each layer's weights."""
        if self.price == "weights":
            return [float(params[n].numel()) for n in names]
        priced = prices(objective.layers(params, 1), 32)
        if missing := [n for n in names if n.removesuffix(".weight") not in priced]:
            raise ValueError(
                f"price=bops: {', '.join(missing)} are not weights of an affine map; set "
                "analysis.sensitivity_bits.price=weights"
            )
        each = [priced[n.removesuffix(".weight")] for n in names]
        return [float(p.macs) * p.input_bits for p in each]

    def _pairs(self, losses: Losses, names: list[str], base: float, rises: np.ndarray) -> Numbers:
        """Return the rises of pairs beyond the sums of single rises, and their share."""
        k = self.bits.index(self.pair_bits) if self.pair_bits else 0
        found = np.zeros((len(names), len(names)))
        sums = 0.0
        for i, j in itertools.combinations(range(len(names)), 2):
            alone = rises[i, k] + rises[j, k]
            both = losses(_only(names, {names[i]: k, names[j]: k})) - base
            found[i, j] = found[j, i] = both - alone if math.isfinite(alone) else math.nan
            sums += abs(alone) if math.isfinite(found[i, j]) else 0.0
        pairs = np.where(np.isfinite(found), found, 0.0)  # the share is over finite pairs
        share = float(np.abs(pairs).sum() / 2 / sums) if sums else math.nan
        return {"pairs": found.flatten().tolist(), "interaction": share}

    def _allocate(
        self, objective: Objective, losses: Losses, point: Any, rises: np.ndarray,
        unit: list[float], generator: torch.Generator,
    ) -> Numbers:  # fmt: skip
        """Return the bits of every allocation, with losses and costs."""
        table = np.outer(unit, self.bits)
        budget = self.budget * sum(unit)
        found = {
            "even": _allocation.even(table, budget),
            "greedy": _allocation.greedy(losses, table, budget),
            "ilp": _allocation.ilp(rises, table, budget),
        }
        if self.anneal:
            start = min(found.values(), key=losses)
            found["anneal"] = _allocation.anneal(
                losses, table, budget, start, self.anneal, generator
            )
        best = min(losses(c) for k, c in found.items() if k != "even")
        gain = losses(found["even"]) - best if best < math.inf else math.nan
        out: Numbers = {"budget": self.budget, "gain": gain}
        for name, choice in found.items():
            out[f"{name}/bits"] = [float(self.bits[k]) for k in choice]
            out[f"{name}/loss"] = losses(choice)
            out[f"{name}/spent"] = _allocation.cost(choice, table) / sum(unit)
            if objective.heldout is not None:
                out[f"{name}/heldout"] = float(objective.heldout.value(point(choice)))
        return out

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the rank correlations of the proxies, and each allocation, in words."""
        if "sensitivity_bits/ilp/loss" not in result:
            return []
        taus = ", ".join(
            f"{k} {number(result[f'sensitivity_bits/kendall/{k}'])}"
            for k in ("gradient", "curvature", "taylor", "error")
            if f"sensitivity_bits/kendall/{k}" in result
        )
        rows = [("sensitivity", f"Kendall tau to the measured rise: {taus}")]
        for how in ("even", "greedy", "ilp", "anneal"):
            if f"sensitivity_bits/{how}/loss" in result:
                bits = "-".join(f"{b:g}" for b in result[f"sensitivity_bits/{how}/bits"])
                loss, mean = (
                    number(result[f"sensitivity_bits/{how}/{k}"]) for k in ("loss", "spent")
                )
                rows.append((f"  {how}", f"loss {loss} at {mean} bits: {bits}"))
        return rows


def _only(names: list[str], some: dict[str, int]) -> Choice:
    """Return the choice that quantizes some layers and leaves the others in full precision."""
    return tuple(some.get(n, FULL) for n in names)
