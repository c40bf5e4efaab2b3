"""Messages for the errors of Hydra: what was wrong, what there is, what was probably meant."""

import difflib
import fnmatch
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa.config.catalogue import GROUPS, leaves, options
from sa.config.error import HELP, TEMPERATURE, nearest, renamed, typed
from sa.config.search import CONF, find


def explain(error: Exception, argv: list[str]) -> str | None:
    """Return a message for an error of Hydra; None for an error of something else.

    Args:
        error: the error.
        argv: the words of the command line.

    """
    from hydra.errors import MissingConfigException

    text = str(error)
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    if not missing:
        found = re.search(r"In '[^']*': Could not find '([^']+)'", text)
        missing = found.group(1) if found else None
    if missing and "primary config" in text:
        name = str(missing).removesuffix(".yaml")
        return (
            f"--config-name={name}: there is no such file in the searched folders; leave it out. "
            "Type experiment=NAME for a study, --config-dir=DIR for a folder of files of your own"
        )
    if missing:
        group, _, name = str(missing).rpartition("/")
        return no_option(group, name)
    needed = re.search(r"Interpolation key '(\w+)", text)
    if needed:
        name = needed.group(1)
        return (
            f"{name}: cannot be taken away or emptied, other settings use it; type {name}=NAME"
            f"\n{HELP}"
        )
    return _of_words(error, text, argv)


def _of_words(error: Exception, text: str, argv: list[str]) -> str | None:
    """Return a message for words that Hydra cannot read or find; None for another error."""
    key = re.search(r"Could not (?:override|delete) '([^']+)'", text) or re.search(
        r"Key '([^']+)' (?:is )?not in", text
    )
    if text.startswith("Ambiguous value for argument"):
        given = text.splitlines()[0].partition("'")[2].rstrip("'")
        if any(x.startswith(("--cfg", "-c", "--info", "-i")) for x in argv):
            return (
                f"{given} lists several values: --cfg and --info show one run, so give one value; "
                "to see the points of a sweep, type -m ... sweep.dry_run=true"
            )
        return f"{given} lists several values: write -m to sweep over them, or KEY=[A,B] for a list"
    if key and "No match in the defaults list" not in text:
        return _no_key(key.group(1), argv)
    if "No match in the defaults list" in text:
        name = key.group(1) if key else "?"
        if name in GROUPS:
            return f"{name}: cannot be taken away; type {name}=[], or {name}=NAME for another"
        close = nearest(name, GROUPS)
        hint = f"; did you mean {close}=?" if close else ""
        return f"{name}: there is no such group{hint}\ngroups: {', '.join(GROUPS)}"
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        first = text.splitlines()[0]
        return (
            f"{first}\ntype KEY=VALUE; put quotes around spaces, commas and brackets: 'KEY=\"a b\"'"
        )
    if text.startswith("Config group override"):
        return (
            "a group of settings needs the name of an option; type GROUP=NAME, e.g. estimator=nes"
            f"\ngroups: {', '.join(GROUPS)}"
        )
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return text.split("\nSet the environment")[0]
    return None


def no_option(group: str, name: str) -> str:
    """Return the message for an option that a group does not have."""
    there = list(options(group))
    close = nearest(name, there)
    hint = f"; did you mean {group}={close}?" if close else ""
    if not there:
        return f"{group}={name}: there is no such group; groups: {', '.join(GROUPS)}"
    return f"{group}={name}: there is no such {group}{hint}\nthere are: {', '.join(there)}"


def no_choice(group: str, value: Any) -> str:
    """Return the message for a value that names no option of a group, such as null or a number."""
    there = options(group)
    none = f"{group}=none" if "none" in there else f"{group}=[]" if group == "analysis" else ""
    instead = f"for none of them, type {none}\n" if value is None and none else ""
    names = f"there are: {', '.join(there)}" if there else "expected the name of an option"
    return f"{group}={typed(value)}: there is no such {group}\n{instead}{names}"


def _no_key(key: str, argv: list[str]) -> str:
    """Return the message for a setting that the chosen options lack: near misses, who has it."""
    if message := renamed(key):
        return message
    group, _, name = key.partition(".")
    for chosen in _choices(argv):  # in a sweep: the first point that lacks the key
        known: list[str] = _settings(CONF / "config.yaml", "")
        for other in chosen:
            known += _settings(find(other, chosen[other]), f"{other.replace('/', '.')}.")
        if key not in known:
            break
    elsewhere = {o: _settings(find(group, o), "") for o in options(group)} if name else {}
    every = {x for names in elsewhere.values() for x in names}
    meant = difflib.get_close_matches(name, every, 1)
    owners = [o for o, names in elsewhere.items() if meant and meant[0] in names]
    close = nearest(key, [x for x in (*known, *GROUPS) if x != group])
    close = close if not owners or chosen.get(group) in owners else None
    hint = f"; did you mean {close}?" if close else ""
    lines = [f"{key}: there is no such setting{hint}"]
    if name and group in chosen:
        has = [x.removeprefix(f"{group}.") for x in known if x.startswith(f"{group}.")]
        lines.append(f"{group}={chosen[group]} has: {', '.join(has) or 'no settings'}")
        if owners and chosen[group] not in owners:
            lines.append(f"'{meant[0]}' is a setting of {group}={'|'.join(owners)}")
    if key == "estimator.temperature":
        lines.append(TEMPERATURE)
    if key == "until":  # Hydra takes another goal for an unknown key of the mapping
        lines = ["until: the study has a goal of its own; type another value of that goal, or add"]
        lines.append(
            "yours: '++until={train/accuracy:0.9}' (the first goal that is met ends the run)"
        )
    lines.append(HELP)
    return "\n".join(lines)


def _choices(argv: list[str]) -> Iterator[dict[str, str]]:
    """Yield the typed options, group -> option, of every combination that a sweep makes."""
    import yaml

    defaults: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            defaults |= {k: v for k, v in entry.items() if isinstance(v, str)}
    words = dict(x.lstrip("+").split("=", 1) for x in argv if "=" in x)
    listed: dict[str, list[str]] = {}
    for group, value in words.items():
        if options(group):
            inside = re.sub(r"^(choice|glob)\((.*)\)$", r"\2", value)
            names = [n for part in inside.split(",") for n in fnmatch.filter(options(group), part)]
            listed[group] = names or [value]
    for some in itertools.islice(itertools.product(*listed.values()), 1000):
        typed_options = dict(zip(listed, some, strict=True))
        path = find("experiment", str(typed_options.get("experiment")))
        text = path.read_text() if path else ""
        yield defaults | dict(re.findall(r"override /(\w+): (\w+)", text)) | typed_options


def _settings(file: Path | None, prefix: str) -> list[str]:
    """Return the names of the settings in an option's file, each with a prefix; [] for None."""
    import yaml

    content = yaml.safe_load(file.read_text()) if file else {}
    skip = ("defaults", "hydra", "_target_", "_partial_")
    return [
        f"{prefix}{k}"
        for k, _ in leaves({k: v for k, v in (content or {}).items() if k not in skip})
        if not k.endswith(("_target_", "_partial_"))
    ]
