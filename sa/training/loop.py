"""The one loop: estimate, analyse, step. Probing a gradient is the loop with no steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass as plain
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa import surrogate
from sa.network.patch import unpatched
from sa.network.traits import traits
from sa.objective import divergence
from sa.objective.problem import Problem
from sa.params import finite, flatten, stream
from sa.training import groups
from sa.training.average import Average
from sa.training.measure import measure
from sa.training.plateau import Plateau, scored
from sa.training.schedule import Schedule
from sa.types import (
    STRICT,
    Analysis,
    Estimator,
    Moment,
    Numbers,
    Params,
    Quantizer,
    State,
)


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """The parts of a training beside its optimizer; the defaults add nothing.

    >>> import sa, torch
    >>> bowl = sa.loss(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(3)})
    >>> sgd = lambda ps: torch.optim.SGD(ps, lr=0.1)
    >>> goal = Recipe(until={"train/loss": 0.5})
    >>> rows = sa.train(bowl, sa.STE(), sgd, steps=50, evaluate_every=1, recipe=goal)
    >>> [row["step"] for row in rows][-1]
    5

    Args:
        until: goals that end a training when the first of them is reached: a loss at or below its
            number, an accuracy at or above it. They are checked when both splits are evaluated.
        plateau: a goal that ends a training when a score stops improving; null for none.
        schedule: the schedule of the rate; null keeps the optimizer's rate.
        average: a running mean of the points, which is evaluated too; null for none.
        recalibrate: true estimates BatchNorm's statistics anew over the training rows, for every
            evaluation.
        clip: limit of the latent weights of quantized layers, which stay in [-clip, clip]
            (Courbariaux et al. 2015); null for no limit.
        decay_all: true applies weight decay to biases, norms and quantizers too, not only to
            weights.
        quantizer_lr: rate of the quantizers' own parameters, as a factor of the optimizer's; null
            for 1.
        stored: quantizer of all trained parameters, applied after every step, so that the optimizer
            keeps no finer latent weights. Rounding is random if the quantizer is stochastic (Gupta
            et al. 2015). null for none.
        diverge: a training has diverged if its loss is more than this many times its reference for
            three steps in a row (`sa.objective.divergence`); null: only if a number is not finite.
            With criterion=value the loss may start at 0, so the default does not apply there.

    """

    until: dict[str, float] | None = None
    plateau: Plateau | None = None
    schedule: Schedule | None = None
    average: Average | None = None
    recalibrate: bool = False
    clip: Annotated[float, Gt(0)] | None = None
    decay_all: bool = False
    quantizer_lr: Annotated[float, Gt(0)] | None = None
    stored: Quantizer | None = None
    diverge: Annotated[float, Gt(1)] | None = divergence.FACTOR

    @model_validator(mode="after")
    def _goals(self) -> "Recipe":
        for key in self.until or {}:
            try:
                scored(key)
            except ValueError as error:
                raise ValueError(f"until: {error}") from error
        if traits(self.stored).needs_layer:
            raise ValueError(
                f"stored: {type(self.stored).__name__} keeps something for every layer; take one "
                "that reads its range from the tensor, as fixed_point or uniform with train=auto"
            )
        return self

    def check(self, steps: int) -> None:
        """Raise ValueError if the parts do not fit each other, or a training of so many steps."""
        warmup = self.schedule.warmup if self.schedule else 0
        if steps and warmup > steps:
            raise ValueError(
                f"schedule.warmup={warmup}: it is longer than the training of {steps} steps"
            )
        prefixes = {k.split("/")[0] for k in self.scores} - {"train", "test"}
        if prefixes - ({self.average.name} if self.average else set()):
            name = min(prefixes)
            raise ValueError(f"until: {name}/ needs averaged weights; set average={name}")

    @property
    def scores(self) -> list[str]:
        """The names of the scores that goals are set for."""
        return [*(self.until or {}), *([self.plateau.of] if self.plateau else [])]

    def reached(self, row: Mapping[str, Any]) -> str | None:
        """Return the goal that a row has reached, in words; None if it has reached none."""
        for key, goal in (self.until or {}).items():
            got = row.get(key)
            if got is not None and (got <= goal if key.endswith("loss") else got >= goal):
                return f"{key} {'<=' if key.endswith('loss') else '>='} {goal:g}"
        return None


@plain
class Progress:
    """The state of a training as a checkpoint holds it: tensors, numbers and dicts of them.

    Args:
        step: optimizer steps so far.
        params: the trained parameters, by name.
        buffers: the buffers of the network, by name.
        optimizer: the state of the optimizer; {} at the start.
        estimator: the state of the estimator; {} at the start.
        evals: forward-equivalents so far.
        average: the state of the running mean.
        divergence: the state of the check for divergence.
        plateau: the state of the goal ``plateau``.
        analyses: the states of analyses that remember, by name.

    """

    step: int
    params: Params
    buffers: Params
    optimizer: dict[str, Any]
    estimator: State
    evals: float = 0.0
    average: State = field(default_factory=dict)
    divergence: State = field(default_factory=dict)
    plateau: State = field(default_factory=dict)
    analyses: State = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        """Return the state as a plain dict, for torch.save."""
        return dict(vars(self))


def start(
    problem: Problem, parent: Mapping[str, Any] | None = None, averaged: bool = False
) -> Progress:
    """Return the state in which a run begins: at the problem's own point, or where a parent ended.

    The frozen parameters of the problem are set to the parent's too. A weight that a rule quantizes
    in only one of the two runs is the same weight.

    Args:
        problem: the problem of the run.
        parent: the checkpoint of the parent; None without one.
        averaged: true begins at the mean of the parent's points.

    Raises:
        ValueError: the parent is another network, or has no mean of its points.

    """
    if parent is None:
        return Progress(0, problem.params, problem.buffers, {}, {})
    if averaged:
        parent = parent.get("average")
        if not parent:
            raise ValueError(
                "the parent's checkpoint has no averaged weights; set init_average=false, or train "
                "the parent with average=ema or average=swa"
            )
    whole = {"params": problem.params | problem.frozen, "buffers": problem.buffers}
    kept = {kind: {unpatched(k): v for k, v in parent[kind].items()} for kind in whole}
    for kind, mine in whole.items():
        for name, p in mine.items():
            there = kept[kind].get(unpatched(name))
            if there is None or there.shape != p.shape:
                raise ValueError(
                    f"the parent's checkpoint has no '{name}' of shape {tuple(p.shape)}: it is of "
                    "another network"
                )
        if more := sorted(set(kept[kind]) - {unpatched(k) for k in mine}):
            raise ValueError(
                f"the parent's checkpoint has a '{more[0]}' and this network has none: it is of "
                "another network"
            )
    for name, p in problem.frozen.items():
        p.copy_(kept["params"][unpatched(name)])
    params = {k: kept["params"][unpatched(k)] for k in problem.params}
    return Progress(0, params, {k: kept["buffers"][k] for k in problem.buffers}, {}, {})


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
    recipe: Recipe = Recipe(),  # noqa: B008
) -> Iterator[tuple[Numbers, Progress]]:
    """Yield (row, progress) for each step from ``progress.step`` to ``steps``, inclusive.

    A row holds step, loss, grad_norm, evals and the estimator's info; a row of a training also
    holds lr. The last row is of the final point, which no step leaves. In a training it says why
    the training ends (``stopped``).

    Analyses run at every ``analyse_every``-th step, and both splits are evaluated at every
    ``evaluate_every``-th step (None: never). Both happen at the last step too, but a probe, which
    has no steps, is not evaluated. If the batch of a step is the whole training split, and training
    and evaluation compute the same, then every row has the training scores at no cost.

    Random numbers depend on (seed, use, step) alone. So the loop yields the same rows if it
    continues from a yielded progress, and an analysis changes no other number.

    If an analysis finds nothing finite, it gives ``<analysis>/diverged`` 1, and the others run.
    The loop ends with ``diverged`` in the row if a point, loss or gradient is not finite, or if the
    loss stays far above its reference (`Recipe.diverge`). The text names the first bad parameter or
    layer, or says how far above the loss is. No analysis runs at that step.
    """
    seed, device = problem.seed, problem.forward.numerics.device
    params = {k: v.to(device, copy=True) for k, v in progress.params.items()}
    for name, buffer in problem.buffers.items():
        buffer.copy_(progress.buffers[name])
    forward, many = problem.forward, problem.forward.replicas
    stepper = groups.stepper(
        optimizer, params, groups.own(problem.network), stacked=many is not None,
        decay_all=recipe.decay_all, quantizer_lr=recipe.quantizer_lr,
    )  # fmt: skip
    rates = [group["lr"] for group in stepper.param_groups]
    if progress.optimizer:
        stepper.load_state_dict(progress.optimizer)
    state = progress.estimator or estimator.init(params)
    evals, mean, asleep = progress.evals, progress.average, forward.asleep()
    watched, flat, memory = progress.divergence, progress.plateau, progress.analyses
    limit, constant = _limit(recipe, problem) if steps else (None, torch.zeros(1))
    for step in range(progress.step, steps + 1):
        batch = problem.batch(step)
        objective = problem.objective(batch, step)
        before = Progress(
            step, params, problem.buffers, stepper.state_dict(), state, evals, mean, watched, flat,
            memory,
        )  # fmt: skip
        factor = recipe.schedule(step, steps) if recipe.schedule else 1.0
        at = Moment(step, steps, factor * rates[0])
        generator = stream(seed, "estimator", step, device=device)
        estimate = estimator(objective, params, state, generator, at)
        state, evals = estimate.state, evals + estimate.evals
        norm = float(flatten(estimate.grad).double().norm())
        row: Numbers = {"step": step, "loss": float(estimate.value) / (many or 1)}
        row["grad_norm"] = norm / math.sqrt(many or 1)  # with replicas: the root mean square
        row |= {"evals": evals} | estimate.info
        if steps:
            row["lr"] = factor * rates[0]
        if asleep:  # a note in each row until none is left; the last one is empty
            asleep = forward.asleep()
            row["quantizer/note"] = _identities(asleep)
        # Check the point too: a step function of NaN is a finite number.
        if not (finite(params) and math.isfinite(float(estimate.value)) and math.isfinite(norm)):
            row["diverged"] = forward.first_bad(params, batch)
            yield row, before
            return
        each = partial(forward.per_network, params, batch, estimate.value)
        watched, lost = divergence.look(watched, limit, float(estimate.value), each, constant)
        if lost:
            row["diverged"] = _above(problem, recipe.diverge, watched["reference"], each(), lost[0])
            yield row, before
            return
        if recipe.average and steps:
            mean = recipe.average.look(mean, params, problem.buffers, step, steps)
            before.average = mean
        last, seen = step == steps, objective.seen(params)
        scores: Numbers = {}
        if steps and seen is not None and not recipe.recalibrate:
            scores = problem.evaluation.scores("train", seen)
        due = last or recipe.reached(scores) or (evaluate_every and step % evaluate_every == 0)
        if steps and due:
            scores = _evaluate(problem, params, mean, recipe, scores)
            reached = recipe.reached(scores)
            if recipe.plateau and evaluate_every and step % evaluate_every == 0:
                flat = recipe.plateau.look(flat, scores)
                reached = reached or recipe.plateau.reached(flat)
            last = last or reached is not None
            if last:
                scores["stopped"] = reached or "steps"
        if last or (analyse_every and step % analyse_every == 0):
            measured = problem.analysed(objective, step)
            numbers, memory = measure(
                analyses, memory, measured, params, estimate, at, factor, seed=seed, device=device
            )
            row |= numbers
        yield row | scores, before
        if last:
            return
        for name, p in params.items():
            p.grad = estimate.grad[name]
        for group, rate in zip(stepper.param_groups, rates, strict=True):
            group["lr"] = factor * rate
        stepper.step()
        if recipe.clip:
            for name in forward.latent:
                if name in params:
                    params[name].clamp_(-recipe.clip, recipe.clip)
        if recipe.stored:
            _store(params, recipe.stored, stream(seed, "stored", step, device=device))
        forward.track(params, batch.inputs)


def _limit(recipe: Recipe, problem: Problem) -> tuple[float | None, torch.Tensor]:
    """Return (factor, constants), which say when a loss diverges; factor None for never.

    A network diverges if its loss is above factor times the larger of its first loss and its
    constant. The constant, (networks,), is the loss of the best output that is equal for all rows.
    """
    constant = problem.evaluation.constant() if recipe.diverge else None
    if constant is not None:
        return recipe.diverge, constant
    standard = recipe.diverge == divergence.FACTOR
    return None if standard else recipe.diverge, torch.zeros(problem.forward.replicas or 1)


def _above(
    problem: Problem, factor: float | None, reference: Tensor, losses: Tensor, at: int
) -> str:
    """Return how far the loss of network ``at``, which is finite, is above its reference."""
    whose = f" of seed {problem.seed + at}" if problem.forward.replicas else ""
    times, start = float(losses[at]) / float(reference[at]), float(reference[at])
    return (
        f"the loss{whose}, {times:.3g} times {start:.4g} (its start, or the best constant output), "
        f"above {factor:g} times for {divergence.STEPS} steps"
    )


def _identities(asleep: list[str]) -> str:
    """Return a note on quantizers that have seen only zeros; '' if there are none."""
    return f"{', '.join(asleep)}: the identity so far, having seen only zeros" if asleep else ""


@torch.no_grad()
def _store(params: Params, quantize: Quantizer, generator: torch.Generator) -> None:
    """Round a point in place; if the quantizer is stochastic, the generator draws for it."""

    def unit(_: int, logits: torch.Tensor) -> torch.Tensor:
        like: Any = {"dtype": logits.dtype, "device": logits.device}
        u = torch.rand(logits.shape, generator=generator, **like)
        return surrogate.hard_sign(logits - surrogate.logit(u))

    with surrogate.sampling(unit):
        for p in params.values():
            p.copy_(quantize(p))


def _evaluate(
    problem: Problem, params: Params, mean: State, recipe: Recipe, known: Numbers | None = None
) -> Numbers:
    """Return the scores of both splits at the point, and at the mean of the points if there is one.

    ``known`` holds the scores of the training split at the point, if they are known already.
    """
    points: dict[str, tuple[Params, Params]] = {"": (params, {})}
    if recipe.average and mean:
        points[f"{recipe.average.name}/"] = mean["params"], mean["buffers"]
    out: Numbers = {}
    for prefix, (point, buffers) in points.items():
        if recipe.recalibrate:
            buffers = problem.evaluation.recalibrate(point, buffers)
        elif known and not prefix:
            out |= known | problem.evaluation.evaluate(point, buffers, ["test"])
            continue
        out |= {prefix + k: v for k, v in problem.evaluation.evaluate(point, buffers).items()}
    return out
