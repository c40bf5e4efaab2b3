"""How much a network's outputs move with its inputs: the Jacobian's Frobenius norm, row by row."""

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
from sa.params import blocks
from sa.table.names import number
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Numbers, Params


@dataclass(frozen=True, config=STRICT)
class InputSensitivity:
    """|d output / d input|_F of each row (Novak et al. 2018), in evaluation mode: mean and median.

    Of ``logits`` (the outputs) and, of classes, of ``probabilities`` (their softmax), on ``train``
    and ``test``: ``<split>/<reading>/mean`` and ``/median``, of the rows whose norm is finite;
    ``/nonfinite`` counts the others.

    Args:
        view: ``latent``: the derivative, which weights may be quantized for, not activations.
            ``smoothed``: sqrt(E |f(x + sigma e) - f(x)|^2)/sigma for normal e, of any network; the
            same as sigma goes to 0 where there is a derivative.
        rows: rows of each split, the first ones; null for all.
        sigma: of view=smoothed, standard deviation of the noise, in the units of the inputs.
        draws: of view=smoothed, draws of the noise.

    """

    view: Literal["latent", "smoothed"] = "latent"
    rows: Annotated[int, Gt(0)] | None = 1000
    sigma: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Gt(0)] = 32

    def requires(self, structure: Structure) -> None:
        """Raise ValueError where outputs are no smooth function of inputs, naming what to ask."""
        hard = [k for k in structure.quantized if k.endswith(".activation")]
        if hard and self.view == "latent":
            raise ValueError(
                f"view=latent: '{hard[0]}' is a step: outputs are flat in the inputs almost "
                "everywhere, the derivative 0; take instead: view=smoothed (differences under "
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
            raise ValueError("input_sensitivity: the loss is a formula, it has no inputs")
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
        """The rows' norms (n,), float64."""

        def read(x: Tensor) -> Tensor:
            got = objective.evaluation.outputs(params, x)  # type: ignore[union-attr]
            return got.softmax(1) if reading == "probabilities" else got

        found = []
        for start, stop in blocks(batch.rows, 256):
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

    def tell(self, result: Mapping[str, Any], reference: str) -> list[tuple[str, str]]:
        """Return the mean sensitivity on the test rows in words."""
        said = [
            f"{x} {number(result[f'input_sensitivity/test/{x}/mean'])}"
            for x in ("logits", "probabilities")
            if f"input_sensitivity/test/{x}/mean" in result
        ]
        words = f"{', '.join(said)} (mean norm of d output/d input, test)"
        return [("sensitivity", words)] if said else []
