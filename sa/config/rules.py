"""The rules of a configuration: quantizers of layers, by the names of the layers.

A rule has a name of its own, for sweeps: ``rules.a.match=conv*``, ``rules.a.weight.bits=2,4``.
"""

from collections.abc import Mapping
from typing import Any

from sa.config.component import make
from sa.config.error import UsageError, of_setting, typed

SLOTS = ("weight", "activation", "gradient")
"""The slots of a layer that a rule may quantize."""

_HOW = (
    "type e.g. +rules.a.match='conv*' +quantizer/weight@rules.a.weight=uniform "
    "rules.a.weight.bits=4"
)


def made(rules: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Return (name, rule) of every rule, with its quantizers built.

    Raises:
        UsageError: a rule has an unknown setting, matches nothing by form, or quantizes nothing.

    """
    from sa.network.quantize import Rule

    found = []
    for name, rule in (rules or {}).items():
        if not isinstance(rule, Mapping):
            raise UsageError(f"rules.{name}={typed(rule)}: expected match and slots; {_HOW}")
        if unknown := sorted(set(rule) - {"match", "layers", *SLOTS}):
            raise UsageError(
                f"rules.{name}.{unknown[0]}: there is no such setting; a rule has match, "
                f"{', '.join(SLOTS)}"
            )
        match = rule.get("match")
        patterns = [match] if isinstance(match, str) else match
        if not (isinstance(patterns, list) and patterns and all(map(_is_text, patterns))):
            raise UsageError(
                f"rules.{name}.match={typed(match)}: expected a name pattern or a list of them; "
                f"{_HOW}"
            )
        slots = {k: make(f"rules.{name}.{k}", rule[k]) for k in SLOTS if rule.get(k)}
        if not slots:
            raise UsageError(f"rules.{name}: it quantizes nothing; {_HOW}")
        found.append((name, Rule(tuple(patterns), **slots)))
    return found


def ruled(model: Any, rules: Mapping[str, Any] | None) -> Any:
    """Return the model with the rules of a configuration; without rules, the model itself.

    Raises:
        UsageError: the rules do not fit the layers of the model.

    """
    if not rules:
        return model
    from sa.network.ruled import Ruled
    from sa.params import stream

    found = Ruled(model, [rule for _, rule in made(rules)])
    with of_setting("rules"):
        found.build(stream(0, "init"))
    return found


def resolved(rules: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the rules with ``layers``: the layers that each of them quantizes, by slot.

    The id of a run is made of these, so that ``conv*`` and ``[conv1,conv2]`` are one run.

    Raises:
        UsageError: the rules do not fit the layers of the model.

    """
    from sa.network.quantize import assigned
    from sa.network.ruled import example
    from sa.params import stream

    own = dict(made(rules))
    network = model.build(stream(0, "init"))
    with of_setting("rules"):
        reached, _ = assigned(network, list(own.values()), example(model, network))
    found = {}
    for name, rule in own.items():
        layers: dict[str, list[str]] = {}
        for (layer, slot), other in reached.items():
            if other is rule:
                layers.setdefault(slot, []).append(layer)
        found[name] = {**rules[name], "layers": layers}
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)
