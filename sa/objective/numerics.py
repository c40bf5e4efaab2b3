"""Settings of how a loss is computed: precision, device, memory, batch size and statistics."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.objective.augment import Augment
from sa.types import STRICT

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, config=STRICT)
class Numerics:
    """Settings of how a loss is computed.

    Args:
        dtype: dtype of parameters, inputs and evaluations.
        device: ``cpu``, ``cuda`` or one GPU, ``cuda:0``.
        memory: bytes that one evaluation may use for intermediate results, above 0. A batch that
            needs more is computed in parts; loss and gradient are the same.
        batchnorm: statistics that BatchNorm normalises with: ``batch`` (those of the minibatch) or
            ``running`` (those of evaluation). Neither updates the running statistics.
        batch_size: rows of one step; None takes all rows.
        autocast: dtype of matrix products when the loss is back-propagated; None for ``dtype``.
            Weights and evaluations keep ``dtype``.
        compile: True to compile the loss that is back-propagated with torch.compile.
        progress: True to show the progress of long computations on stderr.
        mode: mode of layers such as dropout in the loss that is studied: ``eval`` or ``train``.
            Evaluations of a training are in evaluation mode in any case.
        augment: random changes of the images of every training step; None for none.

    """

    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    memory: Annotated[int, Gt(0)] = 128 << 20
    batchnorm: Literal["batch", "running"] = "batch"
    batch_size: Annotated[int, Gt(0)] | None = None
    autocast: Literal["bfloat16"] | None = None
    compile: bool = False
    progress: bool = False
    mode: Literal["eval", "train"] = "eval"
    augment: Augment | None = None
