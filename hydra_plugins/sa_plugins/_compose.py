"""Composition of every point of a plan: the same configurations as Hydra's, one by one."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from sa.config.argv import NO_EXPERIMENT
from sa.config.error import UsageError
from sa.config.explain import no_choice

_ABSENT = object()


@dataclass(frozen=True)
class Composed:
    """The configuration of one point.

    Args:
        words: the words that made it.
        dropped: words left out, because the options of this point have no such setting.
        config: the resolved configuration, as plain dicts and lists.

    """

    words: list[str]
    dropped: list[str]
    config: dict[str, Any]


class Composer:
    """Composes points that share most of their words.

    Hydra takes a tenth of a second for one composition. So it composes each combination of group
    choices once, and its own function sets the other words of every point on a copy of that.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        assert isinstance(loader, ConfigLoaderImpl)
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(loader)
        self.parsed: dict[str, Override] = {}
        self.choices: dict[str, bool] = {}

    def __call__(self, points: Sequence[list[str]], own: set[str]) -> list[Composed]:
        """Compose every point, in order.

        A word that sets a value (KEY=VALUE) is dropped from the points that have no such setting,
        if another point has it.

        Args:
            points: the words of each point, in the order in which they apply.
            own: words that one point lists for itself; these are never dropped.

        Raises:
            ConfigCompositionException: a setting that no point has, or that a point lists itself.

        """
        points = [[w for w in p if not NO_EXPERIMENT.fullmatch(w)] for p in points]
        split = [(tuple(w for w in p if self._chooses(w)), p) for p in points]
        bases = self._bases(list(dict.fromkeys(choice for choice, _ in split)))
        values = [[w for w in p if not self._chooses(w)] for p in points]
        plans = [self._existing(bases[c], v, own) for (c, _), v in zip(split, values, strict=True)]
        known = {self._key(w) for plan in plans for w in plan}
        composed: list[Composed] = []
        reusable: dict[Any, DictConfig] = {}  # configurations of points with the same settings
        for (choice, words), value, plan in zip(split, values, plans, strict=True):
            applied = [w for w in value if w in plan or self._key(w) not in known]
            dropped = [w for w in value if w not in applied]
            names = tuple(map(self._key, applied))
            again = (choice, names) if self._independent(applied) else None
            config = reusable.get(again)
            if config is None:
                config = copy.deepcopy(bases[choice])
                if again:
                    reusable[again] = config
            self._set(config, applied)
            plain: Any = OmegaConf.to_container(config, resolve=True)
            composed.append(Composed([w for w in words if w not in dropped], dropped, plain))
        return composed

    def parse(self, word: str) -> Override:
        """Parse a word, once."""
        if word not in self.parsed:
            self.parsed[word] = self.parser.parse_override(word)
            if self.parsed[word].is_sweep_override():
                raise UsageError(
                    f"sweep.points: {word}: a listed point has one value of a setting; list "
                    "a point for each value, or type the setting beside -m"
                )
        return self.parsed[word]

    def _key(self, word: str) -> str:
        return self.parse(word).get_key_element()

    def _chooses(self, word: str) -> bool:
        """Return whether Hydra takes a word for the choice of a group's option."""
        override = self.parse(word)
        group = override.key_or_group
        if group not in self.choices:  # Hydra takes milliseconds to look for a group
            self.choices[group] = self.loader.repository.group_exists(group)
        if not self.choices[group] or isinstance(override.value(), dict):
            return False
        if not override.is_delete() and not isinstance(override.value(), str | list):
            raise UsageError(no_choice(group, override.value()))
        return True

    def _set(self, config: DictConfig, words: Sequence[str]) -> None:
        ConfigLoaderImpl._apply_overrides_to_config([self.parse(w) for w in words], config)

    def _existing(self, base: DictConfig, words: list[str], own: set[str]) -> list[str]:
        """Return the words of a point that set something it has."""
        if all(self._sets(w) and _has(base, self._key(w)) for w in words):
            return words
        config, found = copy.deepcopy(base), []  # a word may create a key that the next one sets
        for word in words:
            if word in own or not self._sets(word) or _has(config, self._key(word)):
                self._set(config, [word])
                found.append(word)
        return found

    def _sets(self, word: str) -> bool:
        override = self.parse(word)
        return not (override.is_add() or override.is_force_add() or override.is_delete())

    def _independent(self, words: Sequence[str]) -> bool:
        """Return whether setting the words again replaces their earlier values completely."""
        keys = sorted(f"{self._key(w)}." for w in words)
        nested = any(b.startswith(a) for a, b in zip(keys, keys[1:], strict=False))
        return not nested and all(
            self._sets(w) and not isinstance(self.parse(w).value(), dict | list) for w in words
        )

    def _bases(self, every: list[tuple[str, ...]]) -> dict[tuple[str, ...], DictConfig]:
        """Return the configuration of every combination of group choices.

        If no two groups change the same top-level key, Hydra composes each option once, and the
        combinations are put together from these. To check this, Hydra composes the last combination
        in full.
        """
        first, last = every[0], every[-1]
        options = [dict.fromkeys(words) for words in zip(*every, strict=False)]
        few = 2 + sum(len(o) - 1 for o in options)
        # a listed point may choose its groups in another order than the others
        mixed = any(len({self._key(w) for w in o}) > 1 for o in options)
        if len({len(c) for c in every}) > 1 or mixed or few >= len(every):
            return {c: self._load(c) for c in every}
        start = self._load(first)
        plain_start = _plainly(start)
        parts: list[dict[str, dict[str, Any]]] = []  # by place and word: the keys it changes
        for at, words in enumerate(options):
            parts.append({first[at]: {}})
            for word in list(words)[1:]:
                other = self._load((*first[:at], word, *first[at + 1 :]))
                plain = _plainly(other)
                keys = {**plain_start, **plain}
                changed = [k for k in keys if plain_start.get(k) != plain.get(k)]
                parts[-1][word] = {k: other._get_node(k) for k in changed}
        touched = [{k for part in some.values() for k in part} for some in parts]
        bases = {}
        for choice in every:
            whole = copy.deepcopy(start)
            with open_dict(whole):
                for word, some in zip(choice, parts, strict=True):
                    for key, node in some[word].items():
                        whole[key] = node
            bases[choice] = whole
        apart = sum(map(len, touched)) == len(set().union(*touched))
        if apart and _plainly(bases[last]) == _plainly(self._load(last)):
            return bases
        return {c: self._load(c) for c in every}

    def _load(self, groups: Sequence[str]) -> DictConfig:
        whole = self.loader.load_sweep_config(self.master, list(groups))
        own = OmegaConf.masked_copy(whole, [str(k) for k in whole if k != "hydra"])
        own.experiment = whole.hydra.runtime.choices.get("experiment")
        OmegaConf.set_struct(own, True)  # an unknown setting is an error, as it is for one run
        return own


def lacking(points: Sequence[Composed]) -> Iterator[str]:
    """Yield a sentence for each setting that some points do not have."""
    chosen = [{w.partition("=")[0]: w for w in one.words} for one in points]
    counts = Counter(w.partition("=")[0] for one in points for w in one.dropped)
    for key, many in counts.items():
        parts = key.split(".")[:-1]
        groups = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)] + ["experiment"]
        without = [c for c, one in zip(chosen, points, strict=True) if _drops(one, key)]
        group = next((g for g in groups if any(g in c for c in without)), None)
        names = dict.fromkeys(c[group] for c in without if group in c) if group else {}
        where = ", ".join(names) or f"{many} of {len(points)} points"
        yield f"{key}: there is no such setting with {where}; it applies to the other points only"


def _drops(one: Composed, key: str) -> bool:
    return any(w.partition("=")[0] == key for w in one.dropped)


def _has(config: DictConfig, key: str) -> bool:
    found = OmegaConf.select(config, key, default=_ABSENT, throw_on_resolution_failure=False)
    return found is not _ABSENT


def _plainly(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}
