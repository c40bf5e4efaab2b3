"""Spectral acceleration: hold the directions of high curvature, speed up the rest."""

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
from sa.estimator._base import Method
from sa.network.hooks import called, trait
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import Blocks, finite, flatten, grouped, size, unflatten
from sa.types import PROBE, STRICT, Diverged, Estimate, Estimator, Moment, Numbers, Params, State

Mode = Literal["global", "flat_v1", "flat_v2", "filter", "dynamic"]

SPARE = 3
"""Vectors followed beyond the k + 1 eigenpairs that are used."""

MOST = 40
"""Most directions that mode=dynamic filters in a block."""

LEAST = 1e-30
"""Replaces a rate of 0, at which a schedule may end and no curvature is too high."""


@dataclass(frozen=True, config=STRICT)
class Spectral(Method):
    """d = gamma u + U [(f - gamma) (U'u)], U the top eigenvectors of the curvature.

    u is the gradient of ``base`` or, with momentum, its buffer b <- momentum b + g: u = b
    (Polyak), or u = g + momentum b (``nesterov``). The optimizer is plain SGD of rate lr. The
    factor f of a direction of U with eigenvalue lambda depends on the mode:

    - ``global`` gamma: the control, which is only a larger rate
    - ``flat_v1`` 0; ``flat_v2`` 1
    - ``filter`` min(gamma, 1/(lr lambda)): the step just reaches the minimum along the direction
    - ``dynamic`` as filter, for every direction with lambda > m/(2 gamma lr), at most 40 in a
      block; n_filter is the first number of directions

    m/lr is the largest stable sharpness: m = 2, with momentum 2 (1 + momentum) (Polyak) or (2 + 2
    momentum)/(1 + 2 momentum) (Nesterov). On a quadratic, d is stable if and only if f lr lambda <
    m in the space and gamma lr lambda_{k+1} < m outside it. ``headroom`` is the largest stable
    gamma, m/(lr lambda_{k+1}), or m/(lr lambda_1) in mode global. So the spectral gap bounds the
    gain, not k. d is a step direction, not an estimate of a gradient (target ``none``).

    Each diagonal block has a space of its own, and the headroom treats each block alone. The
    eigenvalues lag one refresh behind. Early in a training the reported headroom can be five times
    too large, so the safeguard is too weak there; later the error is a few percent.

    With curvature=differences, the product along a direction v is [g(w + e v) - g(w - e v)]/(2 e),
    e = epsilon |w| (times sqrt(d/D) in a block of d of all D numbers), symmetrised in the space. No
    loss has this Hessian, but it decides whether steps along v oscillate, for a straight-through
    gradient too.

    Sources: the notes in docs/claims.md; close to BSFA (Zhou, Wang, Chen & Cheng, EMNLP 2025). For
    the edge of stability see Cohen et al., ICLR 2021.

    >>> import sa, torch
    >>> h = torch.tensor([10.0, 1.0, 1.0, 1.0])
    >>> bowl = sa.loss(lambda p: (h * p["w"] ** 2).sum() / 2, params={"w": torch.ones(4)})
    >>> spectral = sa.Spectral(n_filter=1, scale=3.0, safeguard=None)
    >>> got = spectral(bowl, at=sa.Moment(steps=9, lr=0.1), seed=0)
    >>> [round(x, 3) for x in got.grad["w"].tolist()]
    [10.0, 3.0, 3.0, 3.0]

    Args:
        base: estimator whose gradient u is sped up; null for the true gradient of the loss.
        mode: factor f of the directions of U: ``global``, ``flat_v1``, ``flat_v2``, ``filter`` or
            ``dynamic``, see above.
        scale: gamma, the factor of all other directions; with a safeguard the largest gamma.
        n_filter: k, directions of U in each block; with mode=dynamic the first number of them.
        refresh: steps between two refreshes of U; each costs one product with k + 4 vectors. A
            refresh at every step is worse at the edge of stability.
        safeguard: c, in (0, 1), or null for none. gamma starts at 1 and grows by 1 % a step, up to
            scale and to c times the headroom. If the loss is more than 10 % above its lowest value,
            gamma is halved, U is refreshed by two rounds, and this loss becomes the lowest value.
        momentum: momentum of the buffer b <- momentum b + g that replaces g, in [0, 1); the
            optimizer stays plain SGD.
        nesterov: true uses g + momentum b, false uses b (Polyak).
        curvature: ``hessian``, which quantized networks do not have, or ``differences``: how the
            gradient of the base estimator changes along a direction.
        epsilon: length of these differences, as a share of |w|.
        abridged: use only the first so many rows for the curvature; null for all training rows,
            also in trainings by minibatches.
        blocks: parts of the parameters with a space of their own: the whole ``network``, each
            ``module``, each ``tensor``, or named lists of patterns, {name: [patterns]}.
        decompose: true adds up the predicted change of the loss by plain steps, -lr |g_x|^2 +
            lr^2/2 g_x'H g_x, with g_x the part of the gradient in the top space, outside it (the
            bulk), and all of it. It costs two products a step. The parts mix in a space that is not
            refreshed for long; set refresh=1 to separate them.
        lr: rate that the factors assume outside a training; leave it null in a training.

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
            raise ValueError("nesterov=true needs momentum; set e.g. momentum=0.9")
        if self.mode == "dynamic" and self.n_filter > MOST:
            raise ValueError(
                f"n_filter={self.n_filter}: mode=dynamic filters at most {MOST} directions; set "
                f"n_filter <= {MOST}, or mode=filter"
            )
        if self.curvature == "differences" and (self.abridged or self.decompose):
            raise ValueError("abridged and decompose need the Hessian; set curvature=hessian")
        if trait(self.base, "own_step"):
            raise ValueError(
                f"base: {type(self.base).__name__} makes the step itself, and spectral would scale "
                "it again; take an estimator of a gradient, e.g. ste"
            )
        return self

    def requires(self, structure: Structure) -> None:
        """Raise ValueError for a quantized network if the Hessian or the true gradient is needed.

        The requirements of the base hold too.
        """
        if structure.quantized and (self.curvature == "hessian" or self.base is None):
            raise ValueError(
                f"'{next(iter(structure.quantized))}' is quantized: the loss is flat almost "
                "everywhere, and a second derivative through a straight-through slope is no loss' "
                "Hessian; take estimator=spectral_ste (differences of a straight-through "
                "gradient), the network in full precision (quantizer=fp), or for its smoothed "
                "losses estimator=cdg or analysis=smoothing"
            )
        called(self.base, "requires", structure)

    def fits(self, params: Params) -> None:
        """Raise ValueError if a block has fewer than n_filter + 1 parameters."""
        for block, names in grouped(params, self.blocks).items():
            dim = size({k: params[k] for k in names})
            if self.n_filter >= dim:
                larger = "" if self.blocks == "network" else ", or blocks=network"
                raise ValueError(
                    f"n_filter={self.n_filter}: block '{block}' has {dim} parameters; set "
                    f"n_filter below {dim}{larger}"
                )

    def trains(
        self,
        steps: int,
        optimizer: type[torch.optim.Optimizer],
        settings: Mapping[str, Any],
        batch_size: int | None = None,
    ) -> None:
        """Raise ValueError for a training in which the estimator does not work.

        It needs ``refresh`` steps or more, plain SGD and its rate; the safeguard needs all rows.
        """
        if 0 < steps < self.refresh:
            raise ValueError(
                f"refresh={self.refresh}: the training has {steps} steps; set refresh <= {steps}"
            )
        if steps and (optimizer is not torch.optim.SGD or settings.get("momentum")):
            what = "momentum" if optimizer is torch.optim.SGD else optimizer.__name__
            raise ValueError(
                f"optimizer: spectral scales the step itself, which {what} would change; set "
                "optimizer=sgd optimizer.momentum=0 (and estimator.momentum=0.9)"
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
        """Return the largest stable sharpness times the rate (Cohen et al. 2021, appendix B)."""
        beta = self.momentum
        return (2 + 2 * beta) / (1 + 2 * beta) if self.nesterov else 2 * (1 + beta)

    def init(self, params: Params) -> State:
        """Return a state without spaces, with the first gamma and a buffer of 0."""
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

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in the base's evals, and 3.9 + 3.6 (k + 4) more at a refresh.

        A product that does not fit into memory costs 7.5 instead of 3.6.
        """
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
            curvature = self._curvature(objective, params, state["base"], generator, at)
            try:
                self._refresh(curvature, params, after, lr, generator, rounds=1 + alarm)
            except Diverged:  # a NaN gradient, which the loop records as diverged
                lost = {k: torch.full_like(g, math.nan) for k, g in base.grad.items()}
                return Estimate(base.value, lost, evals + curvature.evals, after, base.info | info)
            info = {"refreshed": 1.0, "products": float(curvature.products)}
            evals += curvature.evals
            after["age"] = 1
        limit = _spectrum.headroom(after["spaces"], self._m / lr, self.mode == "global")
        if self.safeguard:
            after["gamma"] = min(after["gamma"], self.safeguard * limit)
        d, lengths = self._filtered(u, after["spaces"], after["gamma"], lr)
        info |= {"gamma": after["gamma"], "edge": self._m / lr}
        if after["spaces"]:
            info |= lengths | {"headroom": limit, "overlap": after["overlap"]}
            info |= _spectrum.numbers(after["spaces"])
            if info["refreshed"] and self.mode != "dynamic":
                info["note"] = "" if limit >= self.scale else self._no_room(limit)
        if self.decompose:
            evals += self._decompose(objective, params, base.grad, after, lr)
            info |= {f"change/{k}": v for k, v in after["change"].items()}
        return Estimate(base.value, d, evals, after, base.info | info)

    def _filtered(
        self, u: Params, spaces: _spectrum.Spaces, gamma: float, lr: float
    ) -> tuple[Params, Numbers]:
        """Return d = gamma u + U [(f - gamma) (U'u)], and the lengths before and after."""
        if not spaces:
            return {k: gamma * v for k, v in u.items()}, {}
        d: Params = {}
        top = before = now = 0.0  # squared lengths of U'u, u and d
        for space in spaces.values():
            like = {k: u[k] for k in space["names"]}
            rows, flat = space["vectors"][: space["k"]], flatten(like)
            along = rows @ flat  # U'u
            factors = self._factors(space["values"][: space["k"]], gamma, lr)
            moved = torch.addmv(flat, rows.T, (factors - gamma).to(rows) * along, beta=gamma)
            d |= unflatten(moved, like)
            top += float(along.norm()) ** 2
            before += float(flat.norm()) ** 2
            now += float(moved.norm()) ** 2
        lengths: Numbers = {"norm_before": math.sqrt(before), "norm_after": math.sqrt(now)}
        lengths["top_share"] = top / before if before else math.nan
        return {k: d[k] for k in u}, lengths  # blocks may be in another order

    def _no_room(self, headroom: float) -> str:
        """Return the warning that the headroom is below the scale."""
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
        """Return the estimate of the base, or the true gradient in 3 evals."""
        if self.base is None:
            return Estimate(*objective.value_and_grad(params, generator=generator), 3.0)
        return self.base(objective, params, state, generator, at)

    def _update(self, grad: Params, after: State) -> Params:
        """Return the step direction without filtering; put the new buffer into the state."""
        if not self.momentum:
            return grad
        buffer = {k: self.momentum * after["buffer"][k] + g for k, g in grad.items()}
        after["buffer"] = buffer
        if self.nesterov:
            return {k: g + self.momentum * buffer[k] for k, g in grad.items()}
        return buffer

    def _factors(self, values: Tensor, gamma: float, lr: float) -> Tensor:
        """Return the factors f (k,), float64, of directions with eigenvalues (k,)."""
        if self.mode in ("flat_v1", "flat_v2"):
            return torch.full_like(values, float(self.mode == "flat_v2"))
        own = torch.full_like(values, gamma)
        if self.mode == "global":
            return own
        least = 0.0 if self.mode == "filter" else self._m / (2 * gamma * lr)
        reach = (1 / (lr * values.clamp(min=1e-300))).clamp(max=gamma)
        return torch.where(values > least, reach, own)

    def _curvature(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment,
    ) -> Curvature:
        """Return the products with the Hessian, or with differences of the base's gradient."""
        if self.curvature == "hessian":
            return objective.curvature(params, self.abridged)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))

        def gradient(point: Params) -> tuple[Params, float]:  # the same draws at both points
            own = torch.Generator(generator.device).manual_seed(seed)
            estimate = self._base(objective, point, state, own, at)
            return estimate.grad, estimate.evals

        return objective.curvature(params, gradient=gradient, epsilon=self.epsilon)

    def _refresh(
        self,
        curvature: Curvature,
        params: Params,
        after: State,
        lr: float,
        generator: torch.Generator,
        rounds: int,
    ) -> None:
        """Find or follow the spaces; put them, and their overlap with the old ones, into after."""
        spaces: dict[str, Any] = {}
        for block, names in grouped(params, self.blocks).items():
            part, old = curvature.within(names), after["spaces"].get(block)
            k = old["k"] if old else self.n_filter
            if old:
                pairs = part.follow(old["vectors"], rounds)
            else:
                pairs = part.top(k + 1, generator, spare=SPARE)
            most = min(MOST, size({n: params[n] for n in names}) - 1)
            while self.mode == "dynamic" and k < most:
                if float(pairs.values[k]) <= self._m / (2 * after["gamma"] * lr):
                    break
                k = min(2 * k, most)
                pairs = part.top(k + 1, generator, spare=SPARE)
            spaces[block] = {
                "names": list(names), "values": pairs.values, "vectors": pairs.vectors, "k": k,
            }  # fmt: skip
        after["overlap"] = _spectrum.overlap(after["spaces"], spaces)
        after["spaces"] = spaces

    def _decompose(
        self, objective: Objective, params: Params, grad: Params, after: State, lr: float
    ) -> float:
        """Add the predicted change of the loss by a plain step to the sums; return the evals."""
        hessian = objective.curvature(params, self.abridged)
        top, full = _spectrum.projected(after["spaces"], grad), flatten(grad)
        parts = torch.stack([top, full - top])
        curved = (parts @ hessian.product(parts).T).double().tolist()
        squares = (parts * parts).sum(1).double().tolist()
        half = lr * lr / 2
        change = {
            "top": -lr * squares[0] + half * curved[0][0],
            "bulk": -lr * squares[1] + half * curved[1][1],
            "full": -lr * sum(squares) + half * sum(map(sum, curved)),
        }
        after["change"] = {k: after["change"][k] + v for k, v in change.items()}
        return hessian.evals
