"""Refusal of quantized networks, and the residual of eigenpairs, for analyses of the Hessian."""

import torch

from sa.curvature.solve import Pairs
from sa.network.structure import Structure


def refuse_quantized(structure: Structure) -> None:
    """Raise ValueError for a quantized network."""
    if structure.hard:
        raise ValueError(
            f"'{structure.hard[0]}' is quantized: the loss is flat almost "
            "everywhere and has no Hessian to speak of; take analysis=smoothing (its smoothed "
            "losses), estimator=spectral_ste (differences of a straight-through gradient), or "
            "the network in full precision (quantizer=fp)"
        )


def residual(pairs: Pairs) -> float:
    """Return the largest relative residual |H u - lambda u|/|lambda| of the pairs, >= 0.

    The smallest |lambda| that is divided by is 1e-6 of the largest.
    """
    scale = pairs.values.abs().clamp(min=1e-6 * float(pairs.values.abs().max()))
    return float(torch.where(pairs.residuals == 0, 0.0, pairs.residuals / scale).max())
