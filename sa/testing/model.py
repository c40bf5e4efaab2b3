"""The laws of models, on the networks that they build."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sa import surrogate
from sa.testing.broken import Broken
from sa.types import Model


def _network(model: Model, seed: int = 0) -> nn.Module:
    return model.build(torch.Generator().manual_seed(seed)).double().eval()


def _rows(model: Model, many: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(many, *model.shape, generator=draw, dtype=torch.float64)


def _repeats(model: Model) -> None:
    with torch.random.fork_rng(devices=[]):  # torch layers draw as they are made: allowed
        torch.manual_seed(1)
        one = _network(model)
        torch.manual_seed(2)
        two = _network(model)
    for name, value in one.state_dict().items():
        if not torch.equal(value, two.state_dict()[name]):
            raise Broken(
                f"'{name}' differs between two networks of one generator; draw from it alone"
            )
    if not dict(one.named_parameters()):
        raise Broken("the network has no parameters")


def _outputs(model: Model) -> None:
    for kind in (torch.float64, torch.float32):
        out = _network(model).to(kind)(_rows(model).to(kind))
        if not isinstance(out, Tensor) or tuple(out.shape) != (5, model.outputs):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise Broken(f"5 rows give {shape}; expected (5, {model.outputs})")
        if out.dtype != kind or not out.isfinite().all():
            raise Broken(f"in {kind} its outputs are {out.dtype}, or not finite")


def _independent(model: Model) -> None:
    network, x = _network(model), _rows(model)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    if not torch.allclose(alone, network(x), rtol=1e-9, atol=1e-9):
        raise Broken("in eval mode the output of a row depends on the other rows")
    for name, value in network.state_dict().items():
        if not torch.equal(value, before[name]):
            raise Broken(f"a forward in eval mode changes '{name}'")


def _trains(model: Model) -> None:
    network = _network(model)
    with surrogate.backward(torch.ones_like):
        out = network(_rows(model))
        named = dict(network.named_parameters())
        grads = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
    for name, grad in zip(named, grads, strict=True):
        if grad is None or not grad.isfinite().all():
            how = "does not reach" if grad is None else "is not finite at"
            raise Broken(f"the straight-through gradient {how} '{name}'")


def _stacks(model: Model) -> None:
    network, x = _network(model), _rows(model)
    buffers = dict(network.named_buffers())
    one = {k: p.detach() for k, p in network.named_parameters()}
    two = {k: 1.5 * p for k, p in one.items()}

    def outputs(params: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, {**params, **buffers}, (x,))

    many = torch.vmap(outputs)({k: torch.stack([one[k], two[k]]) for k in one})
    if not torch.allclose(many, torch.stack([outputs(one), outputs(two)]), rtol=1e-9, atol=1e-9):
        raise Broken("several points at once (torch.vmap) give other outputs than one at a time")


LAWS: dict[str, Callable[[Model], None]] = {
    "repeats": _repeats,
    "outputs": _outputs,
    "independent": _independent,
    "trains": _trains,
    "stacks": _stacks,
}
