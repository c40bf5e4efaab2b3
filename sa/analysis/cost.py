"""What a network costs: parameters, their bits, and the operations that one row takes."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge
from pydantic.dataclasses import dataclass

from sa.analysis._bits import declared, prices
from sa.objective.objective import Objective
from sa.types import PROBE, STRICT, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class Cost:
    """Counts of each layer and of all, by a forward of one row.

    ``parameters``; ``bits`` that store them, weights at what their quantizer declares and the rest
    in full (scales that are read from weights are left out); ``macs``, multiply-accumulates of
    affine maps, out_features x in_features of a fully connected one, out_channels x in_channels/
    groups x kernel^2 x positions of a convolution; ``flops``, two a mac; ``bops``, bit operations,
    macs x weight bits x input bits (van Baalen et al., NeurIPS 2020). Norms, activations and
    poolings are left out. ``weight_bits`` and ``input_bits`` by layer; inputs are in full where
    they are not the values of a quantized activation.

    Args:
        full: bits of a number in full precision.

    """

    full: Annotated[int, Ge(1)] = 32

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``cost/``; raises ValueError for a plain function."""
        layers = objective.layers(params, 1)
        if not layers:
            raise ValueError("cost: a plain function has no layers to count")
        told, out = prices(layers, self.full), dict.fromkeys(_SUMS, 0.0)
        each: Numbers = {}
        for layer in layers:
            own = layer.weight.numel() if layer.weight is not None else 0
            mine = {"parameters": float(layer.parameters)}
            low = declared(layer.quantize, self.full)
            mine["bits"] = float(own * low + (layer.parameters - own) * self.full)
            if price := told.get(layer.name):
                mine |= {"macs": float(price.macs), "flops": 2.0 * price.macs}
                mine["bops"] = float(price.macs) * price.weight_bits * price.input_bits
                each[f"{layer.name}/weight_bits"] = float(price.weight_bits)
                each[f"{layer.name}/input_bits"] = float(price.input_bits)
            out = {k: v + mine.get(k, 0.0) for k, v in out.items()}
            if layer.parameters:
                each |= {f"{layer.name}/{k}": v for k, v in mine.items()}
        return {f"cost/{k}": v for k, v in (out | each).items()}

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return what a row costs, in words."""
        if "cost/macs" not in result:
            return []
        weights, bits, macs, bops = (
            result[f"cost/{k}"] for k in ("parameters", "bits", "macs", "bops")
        )
        each = f"{weights:.4g} parameters of {bits / max(1.0, weights):.3g} bits"
        return [("cost", f"{each}, {macs:.4g} MACs, {bops:.4g} bit operations a row")]


_SUMS = ("parameters", "bits", "macs", "flops", "bops")
