"""Central differences of any loss, by two evaluations for each coordinate.

Tests compare the fast differences with these.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sa.flips.progress import Progress
from sa.params import ranges, size
from sa.types import Params, Partial


def differences(
    values: Callable[[Params, Params], Tensor],
    params: Params,
    epsilon: float,
    together: Callable[[int], int],
    partial: Partial,
    told: Progress,
) -> Params:
    """Return [f(w + eps e_i) - f(w - eps e_i)] / (2 eps) for every coordinate i.

    Args:
        values: (stack, base) -> losses (K,) at K points. The stack has the tensors that differ,
            with the points first; the base has the others.
        params: the point w.
        epsilon: the step eps, above 0.
        together: the size of a tensor -> how many of its coordinates to evaluate at once.
        partial: stores the finished coordinates, so that a killed run continues from there.
        told: is called with the number of finished coordinates.

    """
    number, kept = partial.take()
    grads: Params = {k: g.to(params[k]) for k, g in kept.get("grads", {}).items()}
    at_name, first, begun = kept.get("at", ("", 0, None))
    done = size(grads) + first
    for name, p in params.items():
        if name in grads:
            continue
        out = torch.zeros(p.numel(), dtype=torch.float64, device=p.device)
        ahead = first if name == at_name else 0
        if ahead:
            out[:ahead] = begun[:ahead]
        for start, stop in ranges(p.numel() - ahead, together(p.numel())):
            start, stop = start + ahead, stop + ahead
            n, at = stop - start, torch.arange(start, stop, device=p.device)
            flat = p.flatten().expand(2 * n, -1).clone()
            # set each entry anew: adding and then subtracting eps does not give w back
            flat[torch.arange(n), at] = p.flatten()[at] + epsilon
            flat[torch.arange(n, 2 * n), at] = p.flatten()[at] - epsilon
            losses = values({name: flat.view(2 * n, *p.shape)}, params)
            out[start:stop] = (losses[:n] - losses[n:]) / (2 * epsilon)
            done += n
            told(done)
            partial.keep(number, {"grads": grads, "at": (name, stop, out)})
        grads[name] = out.view(p.shape).to(p.dtype)
        partial.keep(number, {"grads": grads})
    return grads
