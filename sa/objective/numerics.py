"""How a loss is computed: precision, device, memory, batches and statistics."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic.dataclasses import dataclass

from sa.types import STRICT

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, config=STRICT)
class Numerics:
    """How a loss is computed.

    Args:
        dtype: of parameters, inputs and evaluations.
        device: ``cpu``, ``cuda`` or one GPU, ``cuda:0``.
        memory: bytes that one evaluation may use for intermediate results, above 0. A larger batch
            is summed over parts, to the same loss and gradient.
        batchnorm: ``batch`` (the statistics of the batch itself) or ``running`` (evaluation
            statistics); neither updates the running ones.
        batch_size: rows of one step; None for all of them.
        autocast: products of the loss that is back-propagated are taken in bfloat16; its weights
            and evaluations stay in dtype.
        compile: whether that loss goes through torch.compile.
        progress: whether work of many seconds says on stderr how far it is.

    """

    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    memory: Annotated[int, Gt(0)] = 128 << 20
    batchnorm: Literal["batch", "running"] = "batch"
    batch_size: Annotated[int, Gt(0)] | None = None
    autocast: Literal["bfloat16"] | None = None
    compile: bool = False
    progress: bool = False
