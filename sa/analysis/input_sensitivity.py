"""Sensitivity of outputs to inputs: the Frobenius norm of the Jacobian of each row."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.analysis import _finite
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import ranges
from sa.table.names import number
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class InputSensitivity:
    """|d output / d input|_F of each row (Novak et al. 2018), in evaluation mode: mean and median.

    It is measured for ``logits`` (the outputs) and, with classes, for ``probabilities`` (their
    softmax), on ``train`` and ``test``. ``<split>/<reading>/mean`` and ``/median`` are over the
    rows whose norm is finite; ``/nonfinite`` counts the other rows.

    Paper: Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018.

    Args:
        view: ``latent`` takes the derivative; weights may be quantized, activations not.
            ``smoothed`` takes sqrt(E |f(x + sigma e) - f(x)|^2)/sigma for normal e, for any
            network; it tends to the derivative, if there is one, as sigma goes to 0.
        rows: use only the first so many rows of each split; null for all.
        sigma: standard deviation of the noise with view=smoothed, in the units of the inputs.
        draws: draws of the noise with view=smoothed.

    """

    view: Literal["latent", "smoothed"] = "latent"
    rows: Annotated[int, Gt(0)] | None = 1000
    sigma: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Gt(0)] = 32

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if view=latent and activations are quantized."""
        hard = [k for k in structure.quantized if k.endswith(".activation")]
        if hard and self.view == "latent":
            raise ValueError(
                f"view=latent: '{hard[0]}' is a step, so the derivative of the outputs by the "
                "inputs is 0 almost everywhere; take instead: view=smoothed (differences under "
                "gaussian noise of sigma on the inputs), or the network in full precision "
                "(quantizer=fp)"
            )

    def __call__(
        self,
        objective: Objective,
        params: Params,
        estimate: Estimate,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Numbers:
        """Return flat numbers under ``input_sensitivity/``."""
        if objective.evaluation is None or objective.batch.inputs[0].numel() == 0:
            raise ValueError("input_sensitivity: a formula has no inputs; give a network and data")
        out: Numbers = {}
        splits = {"train": objective.whole or objective, "test": objective.heldout}
        for split, one in splits.items():
            if one is None:
                continue
            batch = one.batch.part(0, self.rows or one.batch.rows)
            readings = ("logits", "probabilities") if objective.evaluation.classes else ("logits",)
            for reading in readings:
                each = self._norms(objective, params, batch, reading, generator)
                key = f"input_sensitivity/{split}/{reading}"
                sound = each[each.isfinite()]
                out[f"{key}/mean"] = _finite.mean(each)
                out[f"{key}/median"] = float(sound.quantile(0.5)) if len(sound) else math.nan
                out |= {f"{key}/{k}": v for k, v in _finite.counted(each).items()}
        return out

    def _norms(
        self, objective: Objective, params: Params, batch: Batch, reading: str, generator: object
    ) -> Tensor:
        """Return the norms (n,), float64, of the rows."""

        def read(x: Tensor) -> Tensor:
            outputs = objective.evaluation.outputs(params, x)  # type: ignore[union-attr]
            return outputs.softmax(1) if reading == "probabilities" else outputs

        found = []
        for start, stop in ranges(batch.rows, 256):
            x = batch.inputs[start:stop].detach()
            squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            if self.view == "smoothed":
                with torch.no_grad():
                    here = read(x)
                    for _ in range(self.draws):
                        noise = torch.randn(
                            x.shape, generator=generator, device=x.device, dtype=x.dtype
                        )  # type: ignore[call-overload]  # noqa: E501
                        moved = read(x + self.sigma * noise) - here
                        squares += moved.double().square().flatten(1).sum(1)
                squares /= self.draws * self.sigma**2
            else:
                x.requires_grad_()
                with torch.enable_grad():
                    outputs = read(x).flatten(1)
                for k in range(outputs.shape[1]):
                    last = k + 1 == outputs.shape[1]
                    (g,) = torch.autograd.grad(outputs[:, k].sum(), x, retain_graph=not last)
                    squares += g.double().square().flatten(1).sum(1)
            found.append(squares.sqrt())
        return torch.cat(found)

    def tell(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the mean sensitivity on the test rows in words."""
        shown = [
            f"{x} {number(result[f'input_sensitivity/test/{x}/mean'])}"
            for x in ("logits", "probabilities")
            if f"input_sensitivity/test/{x}/mean" in result
        ]
        text = f"{', '.join(shown)} (mean norm of d output/d input, test)"
        return [("sensitivity", text)] if shown else []
