"""The cost of a network: its parameters, their bits, and the operations of one row."""

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
    """Counts for each layer and for the network, from the forward of one row.

    - ``parameters``, and the ``bits`` that store them: weights with the bits of their quantizer,
      other parameters with ``full`` bits. Scales that are computed from weights do not count
    - ``macs``: multiply-accumulates of affine maps. A fully connected map has out_features x
      in_features, a convolution out_channels x in_channels/groups x kernel^2 x positions. Norms,
      activations and poolings do not count
    - ``flops``: two for each MAC
    - ``bops``: bit operations, macs x weight bits x input bits (van Baalen et al., NeurIPS 2020)
    - ``weight_bits`` and ``input_bits`` of each layer. Inputs have ``full`` bits unless they are
      values of a quantized activation

    Args:
        full: bits of a number in full precision, 1 or more.

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
        """Return flat numbers under ``cost/``; raise ValueError for a plain function."""
        layers = objective.layers(params, 1)
        if not layers:
            raise ValueError("cost: a plain function has no layers to count; give a network")
        priced, out = prices(layers, self.full), dict.fromkeys(_SUMS, 0.0)
        each: Numbers = {}
        for layer in layers:
            weights = layer.weight.numel() if layer.weight is not None else 0
            counts = {"parameters": float(layer.parameters)}
            low = declared(layer.quantize, self.full)
            counts["bits"] = float(weights * low + (layer.parameters - weights) * self.full)
            if price := priced.get(layer.name):
                counts |= {"macs": float(price.macs), "flops": 2.0 * price.macs}
                counts["bops"] = float(price.macs) * price.weight_bits * price.input_bits
                each[f"{layer.name}/weight_bits"] = float(price.weight_bits)
                each[f"{layer.name}/input_bits"] = float(price.input_bits)
            out = {k: v + counts.get(k, 0.0) for k, v in out.items()}
            if layer.parameters:
                each |= {f"{layer.name}/{k}": v for k, v in counts.items()}
        return {f"cost/{k}": v for k, v in (out | each).items()}

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the cost of one row in words."""
        if "cost/macs" not in result:
            return []
        weights, bits, macs, bops = (
            result[f"cost/{k}"] for k in ("parameters", "bits", "macs", "bops")
        )
        each = f"{weights:.4g} parameters of {bits / max(1.0, weights):.3g} bits"
        return [("cost", f"{each}, {macs:.4g} MACs, {bops:.4g} bit operations a row")]


_SUMS = ("parameters", "bits", "macs", "flops", "bops")
