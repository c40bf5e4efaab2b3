"""A task made into a problem: the network built, the data loaded, targets set."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sa.network.read import describe, row_width
from sa.objective.problem import Problem, observing
from sa.objective.task import DTYPES, Task, moving_names
from sa.params import blocks, stream
from sa.types import Batch, Splits


def prepare(
    task: Task, seed: int, data: Splits | None = None, init_seed: int | None = None
) -> Problem:
    """Return the problem of a task: its network and data, each from a stream of the seed.

    data: what the dataset loads, where it has been loaded. init_seed: of the network's start
    alone, instead of the seed.
    """
    task.check()
    if task.compile:
        torch.compiler.reset()  # it compiles a function for so many networks, then no more
    dtype = DTYPES[task.dtype]
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
    if kind == "mse" and task.dataset.classes:
        hot = [torch.eye(task.model.outputs, dtype=torch.float64)[b.targets] for b in data]
        data = Splits(*(Batch(b.inputs, h) for b, h in zip(data, hot, strict=True)))
    data = Splits(*(_place(b.to(dtype), task.device) for b in data))
    network = network.to(task.device, dtype)
    named = {k: p.detach() for k, p in network.named_parameters()}
    moving = moving_names(task.moving, network, list(named))
    problem = Problem(
        task=task,
        network=network,
        kind=kind,
        data=data,
        params={k: named[k] for k in moving},
        frozen={k: p for k, p in named.items() if k not in moving},
        structure=describe(
            network, {k: named[k] for k in named if k not in moving}, kind, task.batchnorm
        ),
        norms=[m for m in network.modules() if isinstance(m, _BatchNorm)],
        width=row_width(network, data.train.inputs[:1]),
        seed=seed,
    )
    problem.observe()
    return problem


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [network(inputs[a:b]) for a, b in blocks(len(inputs), 1 << 16)]
    return torch.cat(parts)


def _place(batch: Batch, device: str) -> Batch:
    return Batch(batch.inputs.to(device), batch.targets.to(device))
