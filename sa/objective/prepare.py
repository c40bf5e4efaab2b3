"""The function `prepare`, which builds a task's network, loads its data, and returns a problem."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sa.network.hooks import called, trait
from sa.network.network import Network
from sa.network.read import coupling, describe, row_width
from sa.objective.augment import Augmented
from sa.objective.batches import Batches, drawn
from sa.objective.criterion import CRITERIA
from sa.objective.evaluate import Evaluation
from sa.objective.forward import NetworkForward
from sa.objective.modes import observing
from sa.objective.numerics import DTYPES, Numerics
from sa.objective.problem import Problem
from sa.objective.task import Task, moving_names
from sa.objective.training_mode import in_mode
from sa.objective.vectorize import can_vmap
from sa.params import ranges, stream
from sa.types import Batch, Splits


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
    hot = kind == "mse" and bool(task.dataset.classes)
    unlabelled = kind != "value" and data.train.targets.shape[1:] == (0,)
    teacher = _teacher(task, seed, data.train.inputs) if unlabelled else None
    labelled = partial(_labelled, teacher, task.model.outputs if hot else None, numerics)
    data = Splits(*map(labelled, data))
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
    batches: Callable[[int], Batch] = Batches(data.train, numerics.batch_size, (seed,))
    if trait(task.dataset, "fresh"):
        size = numerics.batch_size or data.train.rows
        batches = partial(drawn, lambda g: labelled(called(task.dataset, "draw", size, g)), seed)
    plain = batches if numerics.augment else None
    if numerics.augment:
        batches = Augmented(batches, numerics.augment, task.scale(), seed)
    params = {k: named[k] for k in moving}
    forward.observe(params, batches(0).inputs)
    forward = in_mode(forward, params, data.train.inputs[:16])
    if not isinstance(network, Network):
        forward.vectorized = can_vmap(forward, params, data.train)
    return Problem(forward, evaluation, batches, params, seed, plain=plain)


def spoilt(dataset: Any, seed: int, given: Tensor) -> Tensor | None:
    """Return True for each training row with a wrong label; None if the dataset spoils none.

    Args:
        dataset: the dataset of the rows.
        seed: seed of the data. For replicas, the seed of the first network: all have the rows in
            the same order.
        given: the labels that the network sees, (rows,); (rows, networks) for replicas.

    """
    clean = called(dataset, "clean")
    if clean is None:
        return None
    own = clean.load(stream(seed, "data")).train.targets.to(given.device)
    return own.view(-1, *[1] * (given.dim() - 1)) != given


def _teacher(task: Task, seed: int, inputs: Tensor) -> nn.Module:
    """Return a second network of the model, which sets the targets of rows that have none."""
    teacher = task.model.build(stream(seed, "target")).eval()
    with observing(teacher):  # its quantizers start from the first inputs
        _outputs(teacher, inputs[: 1 << 16])
    return teacher


def _labelled(
    teacher: nn.Module | None, classes: int | None, numerics: Numerics, batch: Batch
) -> Batch:
    """Return rows with their targets, in the dtype and on the device of the loss.

    Args:
        teacher: network that sets the targets; None if the rows have targets.
        classes: length of the one-hot rows that replace class numbers; None leaves targets.
        numerics: how the loss is computed.
        batch: the rows, in float64 on the CPU.

    """
    inputs, targets = batch
    if teacher is not None:
        targets = _outputs(teacher, inputs)
    if classes is not None:
        targets = torch.eye(classes, dtype=torch.float64)[targets]
    return _place(Batch(inputs, targets).to(DTYPES[numerics.dtype]), numerics.device)


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of a network, computed in parts of at most 65,536 rows."""
    with torch.no_grad():
        parts = [network(inputs[a:b]) for a, b in ranges(len(inputs), 1 << 16)]
    return torch.cat(parts)


def _place(batch: Batch, device: str) -> Batch:
    """Return the rows on a device."""
    return Batch(batch.inputs.to(device), batch.targets.to(device))
