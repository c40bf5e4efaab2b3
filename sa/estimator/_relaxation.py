"""The control variate through the relaxed sample that REBAR and RELAX share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sa.estimator._layers import SampledLayer


def relaxed_losses(layer: SampledLayer, z: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the losses (rows,) with states 2 sigmoid(z/temperature) - 1 in the layer.

    Deeper layers are relaxed the same way, on the noise they were sampled with.
    """

    def deeper(k: int, phi: Tensor) -> Tensor:
        return torch.tanh((phi + layer.noise.draw(k, phi)) / temperature / 2)

    return layer.again(torch.tanh(z / temperature / 2), deeper)


def conditional(phi: Tensor, states: Tensor, e: Tensor) -> Tensor:
    """Return a draw of z = phi + noise given its sign, from fresh logistic noise e.

    Given z >= 0, z = log(1 + (v/(1 - v)) / (1 - sig(phi))) with logit v = e. Given z < 0, the same
    holds for -z and -phi (Tucker et al., NeurIPS 2017). The draw is differentiable in phi at fixed
    states.
    """
    return states * F.softplus(e + F.softplus(states * phi))


def gain(
    layer: SampledLayer, variate: Callable[[Tensor], Tensor], create_graph: bool = False
) -> Tensor:
    """Return [f(b) - c(z~)] d log p(b) + dc(z) - dc(z~), the gradient by the layer's logits.

    It is unbiased for any differentiable c. z = phi + e is the layer's own pre-state; z~ is drawn
    anew given the sign of z.

    Args:
        layer: the layer.
        variate: z -> c(z) (rows,); called for z and for z~.
        create_graph: whether the gradient of c can be differentiated again.

    """
    with torch.enable_grad():
        phi = layer.logits.clone().requires_grad_()
        z = phi + layer.drawn
        again = conditional(phi, layer.states, layer.noise.draw(layer.index, phi, "conditional"))
        free, bound = variate(z), variate(again)
        (slope,) = torch.autograd.grad((free - bound).sum(), phi, create_graph=create_graph)
    score = (1 + layer.states) / 2 - torch.sigmoid(layer.logits)  # b - sig(phi)
    return layer.credit(layer.losses - bound) * score + slope
