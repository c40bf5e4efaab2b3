"""The gradient of the gaussian-smoothed loss, by sampling states of units instead of weights."""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _finite
from sa.estimator._base import Laws, Method
from sa.network.structure import Link, Structure
from sa.objective.objective import Objective
from sa.params import ranges
from sa.types import PROBE, STRICT, Batch, Estimate, Moment, Numbers, Params, State

ROWS = 512
"""Rows sampled together; bounds the memory. Another number gives other draws."""


@dataclass(frozen=True, config=STRICT)
class LocalNES(Method):
    """grad f_sigma with f_sigma(W) = E L(W + sigma E), as NES, at a fraction of the cost of NES.

    The loss is a mean over rows, so the expectation is the same if every row has weight noise of
    its own. For one row with layer input a, gaussian weight noise makes the pre-activations
    independent, z_i ~ N(zbar_i, s^2) with s = sigma |a| (|(a, 1)| if biases move too). So unit i is
    up with probability Phi((zbar_i - t)/s). The estimator samples states row by row and uses the
    score of these probabilities, with the leave-one-out baseline over ``samples`` draws of a row.

    ``exact_tail`` computes the last hidden layer in closed form: with m the mean of its states and
    v their variance, E l = (|W m + b - t|^2 + sum_i |w_i|^2 v_i) / outputs. Noise on the last layer
    enters the squared error by its variance, sigma^2 |a|^2 for each output, which is constant if
    the states are +-1. Under another loss this noise is sampled.

    It is unbiased for chains of fully connected layers and two-level steps, with all parameters
    moving. Other networks are refused; ``nes`` has the same target.

    Paper: Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
    NeurIPS 2015. This applies their local reparametrisation to the target of NES.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Sign()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.LocalNES(sigma=0.1, samples=4)(loss, seed=0).evals
    4.0

    Args:
        sigma: standard deviation of the weight noise, in the units of the weights.
        samples: draws of the states of every row, 2 or more.
        form: ``generic`` treats everything after the hidden layers as a black box. ``exact_tail``
            (squared error only) samples all hidden layers but the last, and computes the last one
            in closed form. ``auto`` takes exact_tail if it is possible.

    """

    target: ClassVar[str] = "gaussian"
    laws: ClassVar[Laws] = {
        "evals": "it samples layer by layer, and counts a draw as a forward and a backward pass"
    }
    sigma: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Ge(2)] = 8
    form: Literal["auto", "generic", "exact_tail"] = "auto"

    @field_validator("sigma", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError("only nes chooses sigma=auto; here a number is needed, e.g. 0.1")
        return value

    @torch.no_grad()
    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in 3 evals a draw, and 1 more."""
        self.requires(objective.structure)
        links = objective.structure.links
        exact = objective.structure.quadratic and self.form != "generic" and len(links) > 1
        draws = self.samples if len(links) > 1 + exact else 1
        batch = objective.batch
        grads = {k: torch.zeros_like(v) for k, v in params.items()}
        left_out = 0
        for start, stop in ranges(batch.rows, ROWS):
            part, s = batch.part(start, stop), objective.structure
            left_out += self._rows(s, params, part, grads, exact, draws, generator)
        for g in grads.values():
            g /= batch.rows
        form = "exact_tail" if exact else "generic"
        info: Numbers = {"path": form} | _finite.counted(left_out)
        return Estimate(objective.value(params), grads, 1 + 3.0 * draws, info=info)

    def requires(self, structure: Structure) -> None:
        """Raise ValueError, with the layer, if the method does not work for the network."""
        s = structure
        if s.why_not_a_chain:
            raise ValueError(f"local_nes is not possible: {s.why_not_a_chain}; use estimator=nes")
        if not s.plain:
            odd = next(x for x in s.links if x.padding is not None or x.norm is not None)
            what = "a convolution" if odd.padding is not None else "followed by a norm"
            raise ValueError(
                "local_nes works for fully connected layers and steps only, and "
                f"'{odd.weight}' is {what}; use estimator=nes"
            )
        for link in s.links[:-1]:
            if link.step is None or len(link.step.levels) != 2:
                raise ValueError(
                    f"local_nes needs a two-level step after '{link.weight}'; use estimator=nes"
                )
        if s.frozen:
            names = ", ".join(s.frozen)
            raise ValueError(
                f"local_nes needs all parameters to move, but {names} are frozen; set "
                "moving=all, or use estimator=nes"
            )
        if self.form == "exact_tail" and not s.quadratic:
            raise ValueError("form=exact_tail works for the squared error only; use form=generic")

    def _rows(
        self, structure: Structure, params: Params, part: Batch, grads: Params, exact: bool,
        draws: int, generator: torch.Generator,
    ) -> int:  # fmt: skip
        """Add the sums over a chunk of rows to grads; return how many draws were left out."""
        sampled = structure.links[:-2] if exact else structure.links[:-1]
        a = part.inputs.flatten(1).expand(draws, -1, -1)  # (draws, rows, in)
        tape = []
        for link in sampled:
            z, spread = self._unit(link, params, a)
            up = torch.special.ndtr(z / spread)
            state = torch.rand(
                (draws, *z.shape[1:]), generator=generator, dtype=z.dtype, device=z.device
            ).lt_(up)
            tape.append((link, a, _score(z, spread, state)))
            a = _levels(link, state)
        losses = (
            self._tail(structure, params, a, part, grads)
            if exact
            else self._outputs(structure, params, a, part, grads, generator)
        )
        ok = losses.isfinite()  # (draws, rows); a draw without a finite loss does not count
        if not sampled:
            return int((~ok).sum())
        count = ok.sum(0).to(losses.dtype)
        mean = torch.where(ok, losses, 0.0).sum(0) / count
        one_out = count / (count - 1).clamp(min=1)
        gain = torch.where(ok, losses - mean, 0.0) * one_out / count.clamp(min=1)
        for link, inputs, score in tape:
            _accumulate(link, grads, score.mul_(gain.unsqueeze(-1)), inputs)
        return int((~ok).sum())

    def _unit(self, link: Link, params: Params, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances to the threshold (draws or 1, rows, out) and their std (.., rows, 1)."""
        one = a[:1] if a.stride(0) == 0 else a  # all draws share the inputs of the first layer
        z = one @ params[link.weight].T
        norm = one.square().sum(-1, keepdim=True)
        if link.bias:
            z += params[link.bias]
            norm = norm + 1
        assert link.step is not None
        z -= link.step.thresholds[0]
        spread = (self.sigma * norm.sqrt()).clamp(min=torch.finfo(z.dtype).tiny)
        still = norm == 0  # no noise reaches the unit: it stays on its side
        return torch.where(still, torch.where(z >= 0, math.inf, -math.inf), z), spread

    def _outputs(
        self, structure: Structure, params: Params, a: Tensor, part: Batch, grads: Params,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Return losses (draws, rows) of sampled last states a; add the last layer's gradient."""
        link, draws = structure.links[-1], len(a)
        y = a @ params[link.weight].T
        if link.bias:
            y += params[link.bias]
        if structure.quadratic:  # the noise of y adds its variance, sigma^2 |a|^2 an output
            r = y.sub_(part.targets)
            _accumulate(link, grads, r * (2 / r.shape[-1] / draws), a)
            return r.square().mean(-1) + self.sigma**2 * a.square().sum(-1)
        norm = (a.square().sum(-1, keepdim=True) + bool(link.bias)).sqrt()
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
        with torch.enable_grad():
            outputs = (y + self.sigma * norm * noise).flatten(0, 1).requires_grad_()
            losses = structure.criterion(outputs, torch.cat([part.targets] * draws))
            (slope,) = torch.autograd.grad(losses.sum() / draws, outputs)
        _accumulate(link, grads, slope.view_as(y), a)
        return losses.detach().view(draws, -1)

    def _tail(
        self, structure: Structure, params: Params, a: Tensor, part: Batch, grads: Params
    ) -> Tensor:
        """Return losses (draws, rows), the mean over the last hidden layer; add both gradients."""
        hidden, last = structure.links[-2:]
        assert hidden.step is not None
        w, (low, high) = params[last.weight], hidden.step.levels
        rise, draws = high - low, len(a)
        z, spread = self._unit(hidden, params, a)
        up = torch.special.ndtr(z / spread)
        mean = low + rise * up
        variance = rise**2 * up * (1 - up)
        r = (mean @ w.T).sub_(part.targets)
        if last.bias:
            r += params[last.bias]
        out, square = len(w), w.square().sum(0)
        # |r|^2 + sum_i |w_i|^2 v_i, and out sigma^2 E|a|^2 from the noise of the last layer
        noise = self.sigma**2 * (low**2 + (high**2 - low**2) * up).sum(-1)
        losses = (r.square().sum(-1) + variance @ square) / out + noise
        if last.weight in grads:
            total = r.flatten(0, 1).T @ mean.flatten(0, 1) + w * variance.sum((0, 1))
            grads[last.weight] += total * (2 / out / draws)
        if last.bias in grads:
            grads[str(last.bias)] += r.sum((0, 1)) * (2 / out / draws)
        # the hidden layer, by the chain rule through Phi
        pull = (2 * rise * (r @ w) + square * rise**2 * (1 - 2 * up)) / out
        pull += self.sigma**2 * (high**2 - low**2)
        density = torch.exp(-0.5 * (z / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        _accumulate(hidden, grads, pull.mul_(density).div_(draws), a)
        return losses


def _score(z: Tensor, spread: Tensor, state: Tensor) -> Tensor:
    """Return d log P(state) / dz = +-phi(u) / (s Phi(+-u)), by logarithms against overflow."""
    u = z / spread
    sign = 2 * state - 1
    log = -0.5 * u * u - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(sign * u)
    return sign * torch.exp(log) / spread


def _levels(link: Link, state: Tensor) -> Tensor:
    assert link.step is not None
    low, high = link.step.levels
    return state * (high - low) + low


def _accumulate(link: Link, grads: Params, slope: Tensor, inputs: Tensor) -> None:
    """Add sums over draws and rows of slope (draws, rows, out) times inputs (draws, rows, in)."""
    if inputs.stride(0) == 0:  # the same inputs for every draw: sum the slopes first
        slope, inputs = slope.sum(0, keepdim=True), inputs[:1]
    if link.weight in grads:
        grads[link.weight] += slope.flatten(0, 1).T @ inputs.flatten(0, 1)
    if link.bias in grads:
        grads[str(link.bias)] += slope.sum((0, 1))
