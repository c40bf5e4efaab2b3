"""`prepare`: builds the network of a task, loads its data, and returns them as a problem."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sa.network.read import coupling, describe, row_width
from sa.objective.batches import Batches
from sa.objective.criterion import CRITERIA
from sa.objective.evaluate import Evaluation
from sa.objective.forward import NetworkForward
from sa.objective.mode import in_mode
from sa.objective.modes import observing
from sa.objective.numerics import DTYPES
from sa.objective.problem import Problem
from sa.objective.task import Task, moving_names
from sa.params import ranges, stream
from sa.types import Batch, Splits, called


def prepare(
    task: Task, seed: int, data: Splits | None = None, init_seed: int | None = None
) -> Problem:
    """Return the problem of a task: its network, its data and the point to start from.

    Args:
        task: the task.
        seed: seed of the data and of the network's initialisation; each has its own stream.
        data: the rows, if the dataset was loaded before; None loads it.
        init_seed: seed of the initialisation, if it differs from ``seed``.

    """
    task.check()
    numerics = task.numerics
    if numerics.compile:
        torch.compiler.reset()  # torch stops compiling after a limited number of networks
    dtype = DTYPES[numerics.dtype]
    data = data or task.dataset.load(stream(seed, "data"))
    start = seed if init_seed is None else init_seed
    network = task.model.build(stream(start, "init")).eval()
    kind = task.kind
    unlabelled = kind != "value" and data.train.targets.shape[1:] == (0,)
    if unlabelled:  # a second network sets the targets
        teacher = task.model.build(stream(seed, "target")).eval()
        with observing(teacher):  # its quantizers start from the first inputs
            _outputs(teacher, data.train.inputs[: 1 << 16])
        data = Splits(*(Batch(b.inputs, _outputs(teacher, b.inputs)) for b in data))
    hot = kind == "mse" and bool(task.dataset.classes)
    if hot:
        ones = torch.eye(task.model.outputs, dtype=torch.float64)
        data = Splits(*(Batch(b.inputs, ones[b.targets]) for b in data))
    data = Splits(*(_place(b.to(dtype), numerics.device) for b in data))
    network = network.to(numerics.device, dtype)
    named = {k: p.detach() for k, p in network.named_parameters()}
    moving = moving_names(task.moving, network, list(named))
    frozen = {k: p for k, p in named.items() if k not in moving}
    example = None if kind == "value" else data.train.inputs[:16]
    forward = NetworkForward(
        structure=describe(
            network, frozen, numerics.batchnorm, CRITERIA[kind], kind == "mse", example
        ),
        width=row_width(network, data.train.inputs[:1]),
        numerics=numerics,
        coupled=bool(coupling(network, numerics.batchnorm)[0]),
        kind=kind,
        network=network,
        frozen=frozen,
        example=example,
    )
    given = data.train.targets
    wrong = partial(spoilt, task.dataset, seed, given.argmax(-1) if hot else given)
    evaluation = Evaluation(forward, data, task.dataset.classes or 0, wrong)
    batches = Batches(data.train, numerics.batch_size, (seed,))
    params = {k: named[k] for k in moving}
    forward.observe(params, batches(0).inputs)
    forward = in_mode(forward, params, data.train.inputs[:16])
    return Problem(forward, evaluation, batches, params, seed)


def spoilt(dataset: Any, seed: int, given: Tensor) -> Tensor | None:
    """Return True for each training row with a wrong label; None if the dataset spoils none.

    Args:
        dataset: the dataset of the rows.
        seed: seed of the data. For replicas, that of the first network: the rows are in the same
            order for all.
        given: the labels that the network sees, (rows,); (rows, networks) for replicas.

    """
    clean = called(dataset, "clean")
    if clean is None:
        return None
    own = clean.load(stream(seed, "data")).train.targets.to(given.device)
    return own.view(-1, *[1] * (given.dim() - 1)) != given


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of a network, computed in parts of at most 65,536 rows."""
    with torch.no_grad():
        parts = [network(inputs[a:b]) for a, b in ranges(len(inputs), 1 << 16)]
    return torch.cat(parts)


def _place(batch: Batch, device: str) -> Batch:
    """Return the rows on a device."""
    return Batch(batch.inputs.to(device), batch.targets.to(device))
