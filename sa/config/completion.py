"""Completion of the command line in bash: options, groups, settings and their values."""

from collections.abc import Iterator, Sequence

from sa.config.argv import experiment
from sa.config.catalogue import GROUPS, chosen, commented, options
from sa.config.describe import settings
from sa.config.flags import FLAGS
from sa.config.study import IMAGES, sizes, takes_images

BASH = """\
# Completion of `sa` and of `python -m sa.run` in bash. Type: eval "$(sa --completion bash)"
_sa_completion() {
    local line=${COMP_LINE:0:COMP_POINT} words command typed current
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    if [[ ${words[1]} == -m && ${words[2]} == sa.run ]]; then
        command=("${words[@]:0:3}")
    elif [[ ${words[0]##*/} == sa ]]; then
        command=("${words[0]}")
    else
        return
    fi
    typed=("${words[@]:${#command[@]}}")
    (( ${#typed[@]} )) || return
    current=${typed[-1]}
    unset 'typed[-1]'
    local IFS=$'\\n'
    COMPREPLY=($("${command[@]}" --completion words "$current" "${typed[@]}" 2>/dev/null))
    if [[ $COMP_WORDBREAKS == *=* && $current == *=* ]]; then  # bash replaces what is behind it
        COMPREPLY=("${COMPREPLY[@]#"${current%%=*}="}")
    fi
}
complete -o nospace -o default -F _sa_completion sa python python3
"""


def candidates(current: str, typed: Sequence[str] = ()) -> list[str]:
    """Return the words that the word at the cursor may become.

    Args:
        current: the word at the cursor, as far as it was typed.
        typed: the words before it.

    """
    if current.startswith("-"):
        found: Iterator[str] = iter(["-m", *FLAGS])
    elif "=" in current:
        found = _values(current, typed)
    else:
        found = _keys(current, typed)
    sign = current[: len(current) - len(current.lstrip("+~"))]
    words = dict.fromkeys(f"{sign}{x}" for x in found)
    return [x for x in words if x.startswith(current)]


def _keys(current: str, typed: Sequence[str]) -> Iterator[str]:
    """Yield groups and settings; settings of a component only after its group and a dot."""
    end = "" if typed and typed[-1] in ("--help", "-h") else "="
    yield from (f"{x}{end}" for x in (*GROUPS, *commented(), "size", "images"))
    for group, option in _choices(typed):
        prefix = f"{group.replace('/', '.')}."
        if not current.lstrip("+~").startswith(prefix):
            yield prefix
            continue
        for one in settings(group, option):
            if "/" not in one.key and not isinstance(one.value, dict):
                yield f"{one.key}{end}"


def _choices(typed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (group, option) of every chosen option that has settings of its own."""
    words = dict(w.lstrip("+~").split("=", 1) for w in typed if "=" in w)
    for group, default in {**dict.fromkeys(GROUPS), **chosen()}.items():
        names = [default] if isinstance(default, str) else default
        if group in words:
            names = words[group].strip("[]").split(",")
        for name in names or []:
            if name in options(group) and any(True for _ in settings(group, name)):
                yield group, name


def _values(current: str, typed: Sequence[str]) -> Iterator[str]:
    """Yield KEY=VALUE for the values of a setting; after a comma or a bracket the next value."""
    key = current.partition("=")[0].lstrip("+~")
    at = max(current.rfind(sign) for sign in "=,[") + 1
    done = current[:at].lstrip("+~")
    if key in GROUPS:
        yield from (done + name for name in options(key))
    elif key == "size":
        others = [f"size={k}" for k in sizes(experiment(typed)) if k != "quick"]
        yield from ["size=quick", *others] if others else []
    elif key == "images":
        study = experiment(typed)
        yield from (f"images={x}" for x in IMAGES if study and takes_images(study))
    elif key in commented():
        from sa.config.settings import explained

        kind = explained()[key][0].replace(" or ", " | ").replace(", | ", " | ")
        plain = (word.strip() for word in kind.split("|"))
        found = (word for word in plain if word != "text")  # a type, not a value
        yield from (done + word for word in found if word.isidentifier() or word.isalnum())
