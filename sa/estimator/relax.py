"""RELAX: REINFORCE with a learned control variate on the relaxed network."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass
from torch import Tensor

from sa.estimator import _layers, _noise, _relaxation
from sa.estimator._base import Laws, Method
from sa.network.structure import Structure
from sa.objective.objective import Objective
from sa.params import finite, stream
from sa.types import PROBE, STRICT, Estimate, Moment, Params, State


@dataclass(frozen=True, config=STRICT)
class Relax(Method):
    """[f(b) - c(z~)] d log p(b) + dc(z) - dc(z~), c learned (Grathwohl et al., ICLR 2018).

    c(z) = eta f(sigmoid(z/T)) + v' tanh(U z + t), one c for each layer of random units. It starts
    as the control variate of REBAR with eta = 1 and T = ``temperature``. After each call it takes
    one Adam step of rate ``lr`` along an unbiased gradient of the estimate's variance, row by row.
    The estimate is unbiased for the gradient of the expected loss E f, for any c. ``state`` holds c
    and the moments of Adam. It works layer by layer, as REBAR does.

    Paper: Grathwohl, Choi, Wu, Roeder & Duvenaud, "Backpropagation through the void", ICLR 2018.

    >>> import sa, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
    >>> net = sa.quantize(net, {"0": {"activation": sa.Bernoulli()}})
    >>> loss = sa.loss(net, (torch.randn(8, 2), torch.zeros(8)))
    >>> sa.Relax(samples=4)(loss, seed=0).evals
    85.0

    Args:
        samples: draws of the random units that a call averages over.
        temperature: first value of T, which is learned.
        hidden: rows of U, the hidden units of the control variate; 0 for none.
        lr: rate of the Adam steps of the control variate; 0 keeps it as it starts.

    """

    target: ClassVar[str] = "stochastic"
    samples: Annotated[int, Gt(0)] = 1
    temperature: Annotated[float, Gt(0)] = 0.5
    hidden: Annotated[int, Ge(0)] = 8
    lr: Annotated[float, Ge(0)] = 0.01

    @property
    def laws(self) -> Laws:
        """Return the reason why it counts more evals than it takes forwards, if c is learned."""
        return {"evals": "it counts the second derivatives that c learns from"} if self.lr else {}

    def requires(self, structure: Structure) -> None:
        """Raise ValueError if no unit is random."""
        _noise.requires(structure)

    def estimate(
        self,
        objective: Objective,
        params: Params,
        state: State,
        generator: torch.Generator,
        at: Moment = PROBE,
    ) -> Estimate:
        """Return the estimate, in (3 + 6 layers) evals a sample, 3 + 18 if lr > 0, and 1 more."""
        learned: Params = dict(state.get("variate", {}))
        slopes: Params = {}
        rows = objective.batch.rows * self.samples

        def gain(layer: _layers.SampledLayer) -> Tensor:
            own = f"{layer.index}/"
            if own + "eta" not in learned:
                learned.update(self._start(own, layer))
            c = {k: v.requires_grad_(self.lr > 0) for k, v in _within(learned, own).items()}

            def variate(z: Tensor) -> Tensor:
                temperature = c["log_temperature"].exp()
                losses = _relaxation.relaxed_losses(layer, z, temperature)
                inner = torch.tanh(z.reshape(layer.rows, -1) @ c["in"].T + c["bias"])
                return c["eta"] * losses + inner @ c["out"]

            estimate = _relaxation.gain(layer, variate, create_graph=self.lr > 0)
            if self.lr > 0:
                variance = estimate.square().sum() / rows
                grads = torch.autograd.grad(variance, list(c.values()), materialize_grads=True)
                for name, g in zip(c, grads, strict=True):
                    slopes[own + name] = slopes.get(own + name, 0) + g
            return estimate.detach()

        alive = 9 if self.lr > 0 else 3
        grad, noise = _layers.layerwise(objective, params, generator, self.samples, gain, alive)
        learns = self.lr > 0 and finite(slopes)  # a step that is not finite would spoil c for ever
        after = _adam(state, learned, slopes, self.lr) if learns else state | {"variate": learned}
        evals = (3.0 + (18 if self.lr > 0 else 6) * noise.layers) * self.samples + 1
        info = noise.info
        for k in range(noise.layers):
            info[f"eta/{k}"] = float(learned[f"{k}/eta"])
            info[f"temperature/{k}"] = math.exp(float(learned[f"{k}/log_temperature"]))
        return Estimate(objective.value(params), grad, evals, after, info)

    def _start(self, own: str, layer: _layers.SampledLayer) -> Params:
        """Return the first control variate of a layer, its names starting with ``own``."""
        like, units = layer.logits, layer.logits.numel() // layer.rows
        u = torch.randn(
            self.hidden, units, generator=stream(layer.noise.seed, "variate", layer.index)
        )
        return {
            own + "log_temperature": like.new_tensor(math.log(self.temperature)),
            own + "eta": like.new_tensor(1.0),
            own + "in": u.to(like) / units**0.5,
            own + "bias": like.new_zeros(self.hidden),
            own + "out": like.new_zeros(self.hidden),
        }


def _within(learned: Params, own: str) -> Params:
    """Return the entries whose names start with ``own``, without that prefix."""
    return {k.removeprefix(own): v.detach() for k, v in learned.items() if k.startswith(own)}


def _adam(state: State, point: Params, slopes: Params, lr: float) -> State:
    """Return the state after one step of Adam (Kingma & Ba, ICLR 2015)."""
    step = state.get("step", 0) + 1
    mean, square, after = {}, {}, {}
    for name, g in slopes.items():
        mean[name] = 0.9 * state.get("mean", {}).get(name, 0) + 0.1 * g
        square[name] = 0.999 * state.get("square", {}).get(name, 0) + 0.001 * g.square()
        scale = (square[name] / (1 - 0.999**step)).sqrt() + 1e-8
        after[name] = point[name] - lr * mean[name] / (1 - 0.9**step) / scale
    return {"variate": after, "mean": mean, "square": square, "step": step}
