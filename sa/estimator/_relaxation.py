"""Control variates through the relaxed sample: what REBAR and RELAX share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.estimator._layers import Layer


def relaxed_losses(layer: Layer, z: Tensor, temperature: float | Tensor) -> Tensor:
    """Losses (rows,) with states 2 sigmoid(z/temperature) - 1 in the layer.

    Deeper layers are relaxed alike, on the noise they were sampled with.
    """

    def deeper(k: int, phi: Tensor) -> Tensor:
        return torch.tanh((phi + layer.noise.draw(k, phi)) / temperature / 2)

    return layer.again(torch.tanh(z / temperature / 2), deeper)


def conditional(phi: Tensor, states: Tensor, e: Tensor) -> Tensor:
    """Pre-states phi + noise given their sign, from fresh logistic noise e (Tucker et al. 2017).

    Given z >= 0, z = log(1 + (v/(1 - v)) / (1 - sig(phi))), logit v = e; given z < 0 likewise for
    -z and -phi. Differentiable in phi with the states held.
    """
    return states * F.softplus(e + F.softplus(states * phi))


def gain(layer: Layer, variate: Callable[[Tensor], Tensor], create_graph: bool = False) -> Tensor:
    """[f(b) - c(z~)] d log p(b) + dc(z) - dc(z~), unbiased for any differentiable c of the layer.

    z = phi + e is the layer's own relaxed pre-state, z~ drawn anew given its sign. variate: z ->
    c(z) (rows,), called for both.
    """
    with torch.enable_grad():
        phi = layer.logits.clone().requires_grad_()
        z = phi + layer.drawn
        again = conditional(phi, layer.states, layer.noise.draw(layer.index, phi, "conditional"))
        free, bound = variate(z), variate(again)
        (slope,) = torch.autograd.grad((free - bound).sum(), phi, create_graph=create_graph)
    score = (1 + layer.states) / 2 - torch.sigmoid(layer.logits)  # b - sig(phi)
    return layer.answer(layer.losses - bound) * score + slope
