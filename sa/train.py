"""The one loop: estimate, analyse, step. Probing a gradient is the loop with no steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sa.task import Problem
from sa.types import Analysis, Estimator, Numbers, Params, State, flatten, stream


@dataclass
class Progress:
    """Everything a checkpoint holds: tensors, numbers and dicts of them, nothing else.

    step: optimizer steps taken. evals: forward-equivalents spent so far.
    """

    step: int
    params: Params
    buffers: Params
    optimizer: dict[str, Any]
    estimator: State
    evals: float = 0.0

    def pack(self) -> dict[str, Any]:
        """As a plain dict, for torch.save."""
        return dict(vars(self))


def start(problem: Problem, parent: Mapping[str, Any] | None = None) -> Progress:
    """The beginning of a run: the problem's own point, or where a parent's checkpoint ended.

    What does not move is the parent's too. Raises ValueError where the parent is another network.
    """
    if parent is None:
        return Progress(0, problem.params, problem.buffers, {}, {})
    whole = {"params": problem.params | problem.frozen, "buffers": problem.buffers}
    for kind, mine in whole.items():
        for name, p in mine.items():
            there = parent[kind].get(name)
            if there is None or there.shape != p.shape:
                raise ValueError(
                    f"the parent's checkpoint has no '{name}' of shape {tuple(p.shape)}: it is of "
                    "another network"
                )
    for name, p in problem.frozen.items():
        p.copy_(parent["params"][name])
    params = {k: parent["params"][k] for k in problem.params}
    return Progress(0, params, {k: parent["buffers"][k] for k in problem.buffers}, {}, {})


def loop(
    problem: Problem,
    estimator: Estimator,
    optimizer: Callable[..., torch.optim.Optimizer],
    analyses: Mapping[str, Analysis],
    *,
    steps: int,
    progress: Progress,
    evaluate_every: int | None = None,
    analyse_every: int | None = None,
) -> Iterator[tuple[Numbers, Progress]]:
    """Yield (row, progress) for each step from ``progress.step`` to ``steps``, inclusive.

    A row holds step, loss, grad_norm, evals and the estimator's info; analyses run where
    analyse_every divides the step and at the last one, evaluation of both splits likewise (None:
    at the last step only; a probe, steps = 0, is not evaluated). The row of the last step is at
    the final point and takes no step after it. Randomness is keyed by (seed, use, step), so going
    on from a yielded progress gives the same rows, and an analysis changes no other number.

    A point, loss or gradient that is not finite ends the loop with ``diverged`` in the row, naming
    the first bad parameter or layer.
    """
    seed, device = problem.seed, problem.task.device
    params = {k: v.to(device, copy=True) for k, v in progress.params.items()}
    for name, buffer in problem.buffers.items():
        buffer.copy_(progress.buffers[name])
    stepper = optimizer(list(params.values()))
    if progress.optimizer:
        stepper.load_state_dict(progress.optimizer)
    state = progress.estimator or estimator.init(params)
    evals = progress.evals
    for step in range(progress.step, steps + 1):
        batch = problem.batch(step)
        objective = problem.objective(batch)
        before = Progress(step, params, problem.buffers, stepper.state_dict(), state, evals)
        told = state | {"progress": step / steps if steps else 0.0}  # for what has a schedule
        estimate = estimator(
            objective, params, told, stream(seed, "estimator", step, device=device)
        )
        state, evals = estimate.state, evals + estimate.evals
        norm = float(flatten(estimate.grad).double().norm())
        row: Numbers = {"step": step, "loss": float(estimate.value), "grad_norm": norm}
        row |= {"evals": evals} | estimate.info
        # the point too: a step function of nan is a finite number
        sound = all(bool(p.isfinite().all()) for p in params.values())
        if not (sound and math.isfinite(float(estimate.value)) and math.isfinite(norm)):
            row["diverged"] = problem.first_bad(params, batch)
            yield row, before
            return
        last = step == steps
        if last or (analyse_every and step % analyse_every == 0):
            for name, analysis in analyses.items():
                generator = stream(seed, "analysis", name, step, device=device)
                row |= analysis(objective, params, estimate, generator)
        if steps and (last or (evaluate_every and step % evaluate_every == 0)):
            row |= problem.evaluate(params)
        yield row, before
        if last:
            return
        for name, p in params.items():
            p.grad = estimate.grad[name]
        stepper.step()
        problem.track(params, batch)
