"""Spectral acceleration: hold the directions that only bounce, speed up the rest."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.curvature.view import Curvature
from sa.estimator import _spectrum
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import Blocks, finite, flatten, grouped, size, unflatten
from sa.types import (
    PROBE,
    STRICT,
    Diverged,
    Estimate,
    Estimator,
    Moment,
    Numbers,
    Params,
    State,
    called,
    trait,
)

Mode = Literal["global", "flat_v1", "flat_v2", "filter", "dynamic"]

SPARE = 3
"""Columns followed beyond the k + 1 eigenpairs that are used."""

MOST = 40
"""Directions that ``dynamic`` filters at most, in a block."""

LEAST = 1e-30
"""What stands for a rate of 0, at which a schedule may end: nothing is too sharp for it."""


@dataclass(frozen=True, config=STRICT)
class Spectral:
    """d = gamma u + U [(f - gamma) (U'u)], U the top eigenvectors of the curvature.

    u is the gradient of ``base`` or, with momentum, its buffer: b <- momentum b + g, u = b
    (Polyak), or g + momentum b (``nesterov``). The optimizer then is plain SGD of rate lr. The
    factor f of the direction of eigenvalue lambda:

    - ``global`` gamma: the control, a larger rate
    - ``flat_v1`` 0; ``flat_v2`` 1
    - ``filter`` min(gamma, 1/(lr lambda)), the step that just reaches its minimum
    - ``dynamic`` as filter, of every direction with lambda > m/(2 gamma lr), at most 40 a block;
      n_filter is how many it begins with

    m/lr is the largest stable sharpness: m = 2, 2 (1 + momentum) Polyak, (2 + 2 momentum)/(1 + 2
    momentum) Nesterov. On a quadratic d is stable iff f lr lambda < m in the space and gamma lr
    lambda_{k+1} < m beyond it: ``headroom`` m/(lr lambda_{k+1}) is the largest gamma (of global,
    m/(lr lambda_1)). So the gain is bounded by the spectral gap, not by k.

    The spaces are those of the diagonal blocks: with several blocks the headroom is of each alone.
    The eigenvalues lag one refresh behind. Early in a training the reported headroom can be five
    times too large, so the safeguard is too weak there; later the error is a few percent.

    With curvature=differences the Hessian's product along a direction v is [g(w + e v) - g(w - e
    v)]/(2 e), e = epsilon |w| (in a block of d of all D numbers sqrt(d/D) times that), symmetrised
    in the space. That is the Hessian of no loss, but what decides whether steps along v bounce,
    for a straight-through gradient too.

    Founding notes of 2024; close to BSFA (Zhou, Wang, Chen & Cheng, EMNLP 2025); the edge of
    stability is Cohen et al. 2021.

    Args:
        base: estimator whose gradient u is sped up; null for the loss' own gradient.
        mode: factor f of the directions of U: ``global``, ``flat_v1``, ``flat_v2``, ``filter`` or
            ``dynamic``, see above.
        scale: gamma, the factor of all other directions; with a safeguard the most it may grow to.
        n_filter: k, directions of U in each of ``blocks``; with mode=dynamic how many it begins
            with.
        refresh: steps between two renewals of U, one product of k + 4 columns each. Renewing every
            step is worse at the edge of stability.
        safeguard: c: gamma starts at 1 and grows by 1 % a step to at most scale and c times the
            headroom. A loss more than 10 % above the lowest so far halves it, renews the space by
            two rounds, and is itself the lowest from there on. null switches it off, as in
            reproductions.
        momentum: of the buffer b <- momentum b + g that takes the place of g; the optimizer is
            plain SGD then.
        nesterov: true takes g + momentum b, false b itself (Polyak).
        curvature: ``hessian``, which quantized networks do not have, or ``differences``: how the
            base estimator's own gradient changes along a direction.
        epsilon: length of these differences, as a share of |w|.
        abridged: rows that the curvature is taken of, the first ones; null for all training rows,
            of minibatches too.
        blocks: what has a space of its own: the whole ``network``, each ``module``, each
            ``tensor``, or named lists of patterns, {name: [patterns]}.
        decompose: true sums what each step's gradient g would change the loss by: -lr |g_x|^2 +
            lr^2/2 g_x'H g_x for x the top space, the bulk and all, at two products a step. In a
            space not renewed for long the parts mix, so refresh=1 tells them apart.
        lr: rate that the factors assume where no training gives one. In a training leave it null:
            another rate than the training's is refused.

    """

    target: ClassVar[str] = "none"
    own_step: ClassVar[bool] = True
    base: Estimator | None = None
    mode: Mode = "flat_v2"
    scale: Annotated[float, Gt(0)] = 2.0
    n_filter: Annotated[int, Gt(0)] = 10
    refresh: Annotated[int, Gt(0)] = 50
    safeguard: Annotated[float, Gt(0), Lt(1)] | None = 0.7
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    nesterov: bool = False
    curvature: Literal["hessian", "differences"] = "hessian"
    epsilon: Annotated[float, Gt(0)] = 0.01
    abridged: Annotated[int, Gt(0)] | None = None
    blocks: Blocks = "network"
    decompose: bool = False
    lr: Annotated[float, Gt(0)] | None = None

    @model_validator(mode="after")
    def _meaningful(self) -> "Spectral":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: it is a kind of momentum; set momentum, e.g. momentum=0.9")
        if self.mode == "dynamic" and self.n_filter > MOST:
            raise ValueError(
                f"n_filter={self.n_filter}: dynamic filters at most {MOST}; expected n_filter <= "
                f"{MOST}, or mode=filter"
            )
        if self.curvature == "differences" and (self.abridged or self.decompose):
            raise ValueError("abridged and decompose are of the Hessian; set curvature=hessian")
        if trait(self.base, "own_step"):
            raise ValueError(
                f"base: {type(self.base).__name__} makes the step itself, and spectral would scale "
                "it again; take an estimator of a gradient, e.g. ste"
            )
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network where the Hessian or its own gradient is asked.

        What the base requires is required too.
        """
        if structure.quantized and (self.curvature == "hessian" or self.base is None):
            raise ValueError(
                f"'{next(iter(structure.quantized))}' is quantized: the loss is flat almost "
                "everywhere, and differentiating twice through a straight-through is no loss' "
                "Hessian; take estimator=spectral_ste (a straight-through base, and how it "
                "changes), or the network in full precision (quantizer=fp); analysis=smoothing and "
                "estimator=cdg ask of its smoothed losses"
            )
        called(self.base, "requires", structure)

    def fits(self, params: Params) -> None:
        """Raise ValueError where a block has not the n_filter + 1 directions that are needed."""
        for block, names in grouped(params, self.blocks).items():
            there = size({k: params[k] for k in names})
            if self.n_filter >= there:
                larger = (
                    "" if self.blocks == "network" else ", or larger blocks, e.g. blocks=network"
                )
                raise ValueError(
                    f"n_filter={self.n_filter}: block '{block}' has {there} parameters; expected "
                    f"n_filter below that{larger}"
                )

    def trains(
        self, steps: int, optimizer: str, settings: Mapping[str, Any], batch_size: int | None = None
    ) -> None:
        """Raise ValueError for a refresh the training never reaches, or another step than SGD's.

        Also for another rate than its own, and for a safeguard that would watch minibatches.
        """
        if 0 < steps < self.refresh:
            raise ValueError(
                f"refresh={self.refresh}: the training has {steps} steps; expected refresh <= steps"
            )
        if steps and (optimizer != "SGD" or settings.get("momentum")):
            what = "momentum" if optimizer == "SGD" else optimizer
            raise ValueError(
                f"optimizer: spectral scales the step itself, which {what} would change after it; "
                "set optimizer=sgd optimizer.momentum=0 (and estimator.momentum=0.9)"
            )
        if steps and self.lr and self.lr != settings.get("lr", self.lr):
            raise ValueError(
                f"lr={self.lr:g}: the training's rate is {settings['lr']:g}; leave out estimator.lr"
            )
        if steps and batch_size and self.safeguard:
            raise ValueError(
                f"safeguard={self.safeguard:g}: the loss of one minibatch rises by chance "
                "and would set it off; set safeguard=null, or batch_size=null"
            )

    @property
    def _m(self) -> float:
        """Largest stable sharpness times the rate (Cohen et al. 2021, appendix B)."""
        beta = self.momentum
        return (2 + 2 * beta) / (1 + 2 * beta) if self.nesterov else 2 * (1 + beta)

    def init(self, params: Params) -> State:
        """No space yet, gamma at its start, an empty buffer and the base's own state."""
        self.fits(params)
        return {
            "base": self.base.init(params) if self.base else {},
            "spaces": {},
            "age": 0,
            "gamma": min(1.0, self.scale) if self.safeguard else self.scale,
            "lowest": math.inf,
            "overlap": math.nan,
            "buffer": {k: torch.zeros_like(p) for k, p in params.items()} if self.momentum else {},
            "change": dict.fromkeys(("top", "bulk", "full"), 0.0),
        }

    def __call__(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """The base's evals; at a renewal 3.9 + 3.6 (k + 4) more (7.5 a product beyond memory)."""
        if "spaces" not in state:
            state = self.init(params) | state
        lr = self.lr if at.lr is None else at.lr
        if lr is None:
            raise ValueError("the rate of the step is not known: set lr")
        lr = max(lr, LEAST)
        base = self._base(objective, params, state["base"], generator, at)
        after: State = state | {"base": base.state}
        u = self._update(base.grad, after)
        value, evals = float(base.value), base.evals
        first = not state["spaces"]
        alarm = bool(self.safeguard) and value > state["lowest"] + 0.1 * abs(state["lowest"])
        after["lowest"] = value if alarm else min(value, state["lowest"])
        if self.safeguard and not first:
            after["gamma"] = min(state["gamma"] * (0.5 if alarm else 1.01), self.scale)
        info: Numbers = {"refreshed": 0.0, "products": 0.0}
        needed = self.mode != "global" or self.safeguard or self.decompose
        after["age"] += 1
        due = needed and (first or alarm or after["age"] > self.refresh)
        if due and math.isfinite(value) and finite(params) and finite(base.grad):
            seen = self._look(objective, params, state["base"], generator, at)
            try:
                self._renew(seen, params, after, lr, generator, rounds=1 + alarm)
            except Diverged:  # a NaN gradient, which the loop records as diverged
                lost = {k: torch.full_like(g, math.nan) for k, g in base.grad.items()}
                return Estimate(base.value, lost, evals + seen.evals, after, base.info | info)
            info = {"refreshed": 1.0, "products": float(seen.products)}
            evals += seen.evals
            after["age"] = 1
        spaces = after["spaces"]
        limit = _spectrum.headroom(spaces, self._m / lr, self.mode == "global")
        if self.safeguard:
            after["gamma"] = min(after["gamma"], self.safeguard * limit)
        gamma = after["gamma"]
        d, squares = {k: gamma * v for k, v in u.items() if not spaces}, [0.0, 0.0, 0.0]
        for space in spaces.values():
            like = {k: u[k] for k in space["names"]}
            rows, flat = space["vectors"][: space["k"]], flatten(like)
            along = rows @ flat  # U'u
            factors = self._factors(space["values"][: space["k"]], gamma, lr)
            held = ((factors - gamma).to(rows)) * along
            moved = torch.addmv(flat, rows.T, held, beta=gamma)
            d |= unflatten(moved, like)
            squares = [
                x + float(y.norm()) ** 2 for x, y in zip(squares, (along, flat, moved), strict=True)
            ]
        info |= {"gamma": gamma, "edge": self._m / lr}
        if spaces:
            top, before, now = squares
            info |= {"norm_before": math.sqrt(before), "norm_after": math.sqrt(now)}
            info |= {"headroom": limit, "overlap": after["overlap"]}
            info["top_share"] = top / before if before else math.nan
            d = {k: d[k] for k in params}  # blocks may be in another order
            info |= _spectrum.told(spaces)
            if info["refreshed"] and self.mode != "dynamic":
                info["note"] = "" if limit >= self.scale else self._no_room(limit)
        if self.decompose:
            evals += self._decompose(objective, params, base.grad, after, lr)
            info |= {f"change/{k}": v for k, v in after["change"].items()}
        return Estimate(base.value, d, evals, after, base.info | info)

    def _no_room(self, headroom: float) -> str:
        what, instead = "gap", "a larger n_filter or a smaller scale"
        if self.mode == "global":
            what, instead = "room", "a smaller scale, or mode=flat_v2"
        return f"no {what} for scale {self.scale:g}: the headroom is {headroom:.3g}; {instead}"

    def _base(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment,
    ) -> Estimate:
        if self.base is None:
            return Estimate(*objective.value_and_grad(params, generator=generator), 3.0)
        return self.base(objective, params, state, generator, at)

    def _update(self, grad: Params, after: State) -> Params:
        """What would be stepped along without filtering; the new buffer goes into the state."""
        if not self.momentum:
            return grad
        buffer = {k: self.momentum * after["buffer"][k] + g for k, g in grad.items()}
        after["buffer"] = buffer
        if self.nesterov:
            return {k: g + self.momentum * buffer[k] for k, g in grad.items()}
        return buffer

    def _factors(self, values: Tensor, gamma: float, lr: float) -> Tensor:
        """The f (k,) of the directions of eigenvalues (k,), float64."""
        if self.mode in ("flat_v1", "flat_v2"):
            return torch.full_like(values, float(self.mode == "flat_v2"))
        own = torch.full_like(values, gamma)
        if self.mode == "global":
            return own
        least = 0.0 if self.mode == "filter" else self._m / (2 * gamma * lr)
        reach = (1 / (lr * values.clamp(min=1e-300))).clamp(max=gamma)
        return torch.where(values > least, reach, own)

    def _look(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment,
    ) -> Curvature:
        if self.curvature == "hessian":
            return objective.curvature(params, self.abridged)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))

        def gradient(point: Params) -> tuple[Params, float]:  # both ends see the same draws
            own = torch.Generator(generator.device).manual_seed(seed)
            got = self._base(objective, point, state, own, at)
            return got.grad, got.evals

        return objective.curvature(params, gradient=gradient, epsilon=self.epsilon)

    def _renew(
        self,
        seen: Curvature,
        params: Params,
        after: State,
        lr: float,
        generator: torch.Generator,
        rounds: int,
    ) -> None:
        """Find the spaces, or follow them; into the state, with the overlap to those before."""
        spaces: dict[str, Any] = {}
        for block, names in grouped(params, self.blocks).items():
            mine, old = seen.within(names), after["spaces"].get(block)
            dim = size({k: params[k] for k in names})
            k = old["k"] if old else self.n_filter

            def cold(k: int, mine: Curvature = mine) -> Any:
                return mine.top(k + 1, generator, spare=SPARE)

            got = mine.follow(old["vectors"], rounds) if old else cold(k)
            most = min(MOST, dim - 1)
            while self.mode == "dynamic" and k < most:
                if float(got.values[k]) <= self._m / (2 * after["gamma"] * lr):
                    break
                k = min(2 * k, most)
                got = cold(k)
            spaces[block] = {
                "names": list(names), "values": got.values, "vectors": got.vectors, "k": k,
            }  # fmt: skip
        after["overlap"] = _spectrum.overlap(after["spaces"], spaces)
        after["spaces"] = spaces

    def _decompose(
        self, objective: Objective, params: Params, grad: Params, after: State, lr: float
    ) -> float:
        """Add what a plain step would change the loss by to the sums; what that has cost."""
        seen = objective.curvature(params, self.abridged)
        top, full = _spectrum.projected(after["spaces"], grad), flatten(grad)
        parts = torch.stack([top, full - top])
        curved = (parts @ seen.product(parts).T).double().tolist()
        squares = (parts * parts).sum(1).double().tolist()
        half = lr * lr / 2
        change = {
            "top": -lr * squares[0] + half * curved[0][0],
            "bulk": -lr * squares[1] + half * curved[1][1],
            "full": -lr * sum(squares) + half * sum(map(sum, curved)),
        }
        after["change"] = {k: after["change"][k] + v for k, v in change.items()}
        return seen.evals
