"""Quantize a network that was built without quantizers, by the names of its layers."""

import copy
import fnmatch
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from sa.network import codes
from sa.network.layers import Activation, Affine, Conv, Linear
from sa.network.patch import (
    PatchedWeight,
    connect_patched,
    patch_outputs,
    patch_weight,
    patched_weight,
    uses,
)
from sa.network.places import check_places, check_uses
from sa.network.traits import LayerQuantizer, for_layer, traits
from sa.types import Quantizer

_GAINS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose parameters are gains and shifts, not weights."""

_CONVS = (_ConvNd, Conv)
_LINEAR = (nn.Linear, Linear)

_ALREADY = (
    "layer '{}' is quantized already; take its quantizer away (quantizer=fp), or leave it out of "
    "the rule"
)


@dataclass(frozen=True)
class Rule:
    """The quantizers of the layers whose name matches; None leaves a slot as it is.

    Args:
        pattern: a name pattern (``conv*``) or several, of layers or of single weights
            (``lstm.weight_hh_l0``).
        weight: quantizer of the weights.
        activation: quantizer of the layers' outputs.
        gradient: quantizer of the gradients that are back-propagated to these outputs.

    """

    pattern: str | tuple[str, ...]
    weight: Quantizer | None = None
    activation: Quantizer | None = None
    gradient: Quantizer | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """The name patterns."""
        return (self.pattern,) if isinstance(self.pattern, str) else tuple(self.pattern)


class _Site(NamedTuple):
    """A weight: the name and module of its layer, and its name in the layer."""

    layer: str
    module: nn.Module
    attribute: str

    @property
    def weight(self) -> str:
        """The name of the weight in the network."""
        return f"{self.layer}.{self.attribute}" if self.layer else self.attribute


def apply_quantizers(
    network: nn.Module, rules: Iterable[Rule], example: Tensor | None = None
) -> nn.Module:
    """Quantize a network in place by rules, and return it; see `quantize`.

    A parameter ``fc.weight`` of a torch layer becomes ``fc.parametrizations.weight.original``, so
    load weights before. Layers of this project keep their names.
    """
    rules = list(rules)
    order = _order(network, example)
    chosen, left = _chosen_weights(network, rules, order)
    if left:
        warnings.warn(
            f"in full precision: {_listed(left)}; a rule that names such a layer in full "
            "quantizes it",
            stacklevel=3,
        )
    if missed := _out_of_reach(network, rules):
        warnings.warn(
            f"in full precision: {_listed(missed)}; rules reach the weights of layers alone",
            stacklevel=3,
        )
    weights = [(s, q) for s, r in chosen.items() if not traits(q := _weight_of(r)).identity]
    outputs = _chosen_outputs(network, rules)
    if example is None and order is not None:
        activations = {k: v.get("activation", Rule(k)).activation for k, v in outputs.items()}
        check_places(order, activations)
    made: dict[int, PatchedWeight] = {}
    for site, quantizer in weights:
        if isinstance(site.module, Affine):
            site.module.quantize = for_layer(quantizer, site.module.weight)
            site.module.to(site.module.weight.dtype)
        else:
            weight = dict(site.module.named_parameters(recurse=False))[site.attribute]
            mine = made.get(id(weight)) or patched_weight(site.module, site.attribute, quantizer)
            made[id(weight)] = mine
            patch_weight(site.module, site.attribute, mine)
    like = next((p for p in network.parameters() if p.is_floating_point()), None)
    named = dict(network.named_modules())
    for name, slots in outputs.items():
        none = Rule(name)
        activation = slots.get("activation", none).activation or codes.Same()
        layer = Activation(activation, slots.get("gradient", none).gradient)
        layer = layer if like is None else layer.to(like.device, like.dtype)
        if isinstance(own := named[name], Activation):
            own.quantize, own.gradient = layer.quantize, layer.gradient
        else:
            patch_outputs(own, layer)
    for name, row in network.named_modules():
        if isinstance(row, nn.Sequential):
            connect_patched(row, f"{name}." if name else "", set(outputs))
    if example is not None:
        check_uses(network, example)
    return network


def assigned(
    network: nn.Module, rules: Sequence[Rule], example: Tensor | None = None
) -> tuple[dict[tuple[str, str], Rule], dict[str, str]]:
    """Return the rules that `apply_quantizers` would apply, without applying them.

    Args:
        network: a network without quantizers in the layers that rules match.
        rules: the rules.
        example: a few inputs.

    Returns:
        The rule of every (layer or weight, slot) that rules quantize; and the layers that stay in
        full precision though a pattern matches them, with the reason.

    Raises:
        ValueError: the rules do not fit, as in `quantize`.

    """
    weights, left = _chosen_weights(network, rules, _order(network, example))
    found = {
        (s.layer if s.attribute == "weight" else s.weight, "weight"): rule
        for s, rule in weights.items()
    }
    for name, slots in _chosen_outputs(network, rules).items():
        found |= {(name, slot): rule for slot, rule in slots.items()}
    return found, left


def quantize(
    network: nn.Module,
    rules: Mapping[str | tuple[str, ...], Quantizer | Mapping[str, Quantizer]],
    inplace: bool = False,
    example: Tensor | None = None,
) -> nn.Module:
    """Return the network with layers that are quantized by rules.

    A rule that names a layer in full goes before one with a pattern. A rule for a layer is for all
    its weights of two dimensions and more, e.g. an LSTM's ``weight_ih_l0``; a weight can be named
    too. Weights that are shared by layers are quantized once. The first convolution, the last
    linear layer and 1x1 convolutions stay in full precision unless a rule names them in full; a
    warning says which.

    >>> from sa.quantizer.uniform import Uniform
    >>> net = quantize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), {"0": Uniform(4)})
    >>> len(net[0].weight.unique()) <= 16
    True

    Args:
        network: any network; load its weights before.
        rules: name pattern of layers, or several -> the quantizer of their weights, or
            ``{"weight": ..., "activation": ..., "gradient": ...}``.
        inplace: True changes the network itself, False a copy of it.
        example: a few inputs. One forward of them finds the first and the last layer even if it
            cannot be traced, and a quantizer that it never uses is an error.

    Raises:
        ValueError: a pattern matches no layer, a slot is unknown or holds no quantizer, two rules
            are for one slot of one layer, a layer is quantized already, a slot is never used, or
            a quantizer with one range stands at several places.

    """
    made = []
    for pattern, what in rules.items():
        slots = dict(what) if isinstance(what, Mapping) else {"weight": what}
        if unknown := sorted(slots.keys() - {"weight", "activation", "gradient"}):
            raise ValueError(
                f"{pattern}: there is no slot '{unknown[0]}'; expected weight, activation, gradient"
            )
        if wrong := [k for k, q in slots.items() if not (q is None or callable(q))]:
            raise ValueError(
                f"{pattern}: {wrong[0]}={slots[wrong[0]]!r} is no quantizer; expected e.g. "
                "sa.Uniform(4)"
            )
        made.append(Rule(pattern, **slots))
    return apply_quantizers(network if inplace else copy.deepcopy(network), made, example)


def _sites(network: nn.Module) -> list[_Site]:
    """Return the weights of all layers: parameters of two dimensions and more, but no gains."""
    found = []
    for name, m in network.named_modules():
        whole = isinstance(m, nn.MultiheadAttention) or not list(m.children())
        mine = isinstance(m, Affine)
        if (whole or mine) and not isinstance(m, (*_GAINS, LayerQuantizer)):
            found += [
                _Site(name, m, k)
                for k, p in m.named_parameters(recurse=False)
                if p.dim() > 1 and p.is_floating_point()
            ]
    return found


def _listed(left: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in left.items())


def _out_of_reach(network: nn.Module, rules: Sequence[Rule]) -> dict[str, str]:
    """Return the parameters of two dimensions and more that patterns match in vain, and why."""
    patterns = [p for r in rules if r.weight is not None for p in r.patterns]
    reached = {s.module for s in _sites(network)}
    found = {}
    for name, m in network.named_modules():
        if m in reached or isinstance(m, (*_GAINS, LayerQuantizer)) or "parametrizations" in name:
            continue
        prefix = f"{name}." if name else ""
        own = {f"{prefix}{k}": p for k, p in m.named_parameters(recurse=False)}
        why = "a parameter beside layers"
        if is_parametrized(m) and not any(isinstance(x, PatchedWeight) for x in m.modules()):
            own |= {f"{prefix}{k}": made() for k, made in m.parametrizations.items()}
            why = "parametrized"
        for k, p in own.items():
            hit = any(fnmatch.fnmatchcase(x, y) for x in (k, name) for y in patterns)
            if hit and p.dim() > 1 and p.is_floating_point():
                found[k] = why
    return found


def _weight_of(rule: Rule) -> Quantizer:
    """Return the weight quantizer of a rule that has one."""
    assert rule.weight is not None
    return rule.weight


def _chosen_weights(
    network: nn.Module, rules: Sequence[Rule], order: list[str] | None
) -> tuple[dict[_Site, Rule], dict[str, str]]:
    """Return the rule of each weight, and layers that stay in full precision with the reason."""
    sites = _sites(network)
    names = {s.layer: None for s in sites} | {s.weight: None for s in sites}
    kept, left = _kept(sites, order), set()
    chosen: dict[_Site, tuple[int, Rule]] = {}
    for rule in (r for r in rules if r.weight is not None):
        for pattern in rule.patterns:
            hits = set(_matching(pattern, names, "weights"))
            for site in sites:
                if not hits & {site.layer, site.weight}:
                    continue
                rank = 2 if pattern == site.weight else int(pattern == site.layer)
                if not rank and site.layer in kept:
                    left.add(site.layer)
                else:
                    _add(chosen, site, rank, rule, "weights")
    left -= {s.layer for s in chosen}
    if left and order is None and _several(sites):
        raise ValueError(
            "which layers come first and last cannot be seen, since the forward cannot be traced; "
            "give example=inputs, a few rows"
        )
    for site in chosen:
        if isinstance(site.module, Affine) and not traits(site.module.quantize).identity:
            raise ValueError(_ALREADY.format(site.layer))
    found = _tied(sites, {site: rule for site, (_, rule) in chosen.items()})
    return found, {k: why for k, why in kept.items() if k in left}


def _tied(sites: list[_Site], chosen: dict[_Site, Rule]) -> dict[_Site, Rule]:
    """Return the rule of every place of a weight; ValueError if two places differ."""
    whose: dict[int, tuple[_Site, Rule]] = {}
    weights = {s: dict(s.module.named_parameters(recurse=False))[s.attribute] for s in sites}
    for site, rule in chosen.items():
        first, other = whose.setdefault(id(weights[site]), (site, rule))
        if other is not rule and other.weight != rule.weight:
            raise ValueError(
                f"'{first.weight}' and '{site.weight}' are one weight, and two rules quantize it "
                "differently; name one of them"
            )
    return {s: whose[id(w)][1] for s, w in weights.items() if id(w) in whose}


def _chosen_outputs(network: nn.Module, rules: Sequence[Rule]) -> dict[str, dict[str, Rule]]:
    """Return the layers whose outputs rules quantize, with the rule of each slot."""
    layers = {k: m for k, m in network.named_modules() if k and not list(m.children())}
    layers = {k: m for k, m in layers.items() if not isinstance(m, LayerQuantizer)}
    chosen: dict[tuple[str, str], tuple[int, Rule]] = {}
    for rule in rules:
        slots = {"activation": rule.activation, "gradient": rule.gradient}
        for slot in (k for k, q in slots.items() if q is not None):
            for pattern in rule.patterns:
                for name in _matching(pattern, layers, "outputs"):
                    _add(chosen, (name, slot), int(name == pattern), rule, f"{slot}s")
    found: dict[str, dict[str, Rule]] = {}
    for (name, slot), (_, rule) in chosen.items():
        m = layers[name]
        if isinstance(m, Activation) and not traits(m.quantize).identity:
            raise ValueError(_ALREADY.format(name))
        found.setdefault(name, {})[slot] = rule
    return found


def _add(chosen: dict[Any, tuple[int, Rule]], what: Any, rank: int, rule: Rule, slot: str) -> None:
    """Note a rule for a slot, if none of a higher rank is there.

    Args:
        chosen: the rules so far, with their ranks.
        what: the weight, or the layer and slot.
        rank: 0 for a pattern, 1 for a layer's full name, 2 for a weight's full name.
        rule: the rule.
        slot: name of the slot, for the error message.

    Raises:
        ValueError: two rules have the same rank.

    """
    before, other = chosen.get(what, (0, rule))
    if other is not rule and before == rank:
        name = what.weight if isinstance(what, _Site) else what[0]
        raise ValueError(
            f"rules '{_text(other)}' and '{_text(rule)}' are both for the {slot} of '{name}'; name "
            "the layer in full in one rule, or let the patterns exclude each other"
        )
    if rank >= before:
        chosen[what] = rank, rule


def _text(rule: Rule) -> str:
    return ", ".join(rule.patterns)


def _order(network: nn.Module, example: Tensor | None) -> list[str] | None:
    """Return the names of layers in the order of the forward; None if it cannot be traced."""
    if example is not None:
        names = {m: k for k, m in network.named_modules()}
        return [names[m] for m in uses(network, example)]

    class Layers(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return not list(m.children()) or super().is_leaf_module(m, module_qualified_name)

    try:
        graph = Layers(param_shapes_constant=True).trace(network)
    except Exception:  # a user's forward may raise any error while it is traced
        return None
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def _kinds(sites: list[_Site]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the convolutions and the linear layers, by name."""
    convs: dict[str, Any] = {s.layer: s.module for s in sites if isinstance(s.module, _CONVS)}
    linear: dict[str, Any] = {s.layer: s.module for s in sites if isinstance(s.module, _LINEAR)}
    return convs, linear


def _several(sites: list[_Site]) -> bool:
    return any(len(layers) > 1 for layers in _kinds(sites))


def _kept(sites: list[_Site], order: list[str] | None) -> dict[str, str]:
    """Return the layers that stay in full precision unless they are named, and why."""
    convs, linear = _kinds(sites)
    place = {name: i for i, name in enumerate(order or [])}
    at = lambda name: place.get(name, len(place))  # noqa: E731
    single = [k for k, m in convs.items() if m.weight[0, 0].numel() == 1]
    kept = dict.fromkeys(single, "1x1 convolution")
    if used := [k for k in linear if order is None or k in place]:
        kept |= {max(used, key=at) if order else used[-1]: "last linear layer"}
    if convs:
        kept |= {min(convs, key=at): "first convolution"}
    return kept


def _matching(pattern: str, layers: Iterable[str], what: str) -> list[str]:
    hits = fnmatch.filter(layers, pattern)
    if not hits:
        raise ValueError(
            f"no layer with {what} matches '{pattern}'; there are: {', '.join(layers) or 'none'}"
        )
    return hits
