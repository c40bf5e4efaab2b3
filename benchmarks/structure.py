"""Command `python -m benchmarks.structure`: prints imports, import circles and sizes of sa/."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SA = Path(__file__).parents[1] / "sa"


@cache
def modules() -> dict[str, Path]:
    """Return every module of sa by its dotted name, ``sa.flips`` for ``sa/flips/__init__.py``."""
    found = {}
    for path in sorted(SA.rglob("*.py")):
        parts = path.relative_to(SA.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import in a file, imports inside functions included.

    ``from a import b`` yields ``a.b`` if b is a module of sa, else ``a``.
    """
    every = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in every else node.module for name in inside)


def graph() -> dict[str, set[str]]:
    """Return module -> the modules of sa that it imports, itself left out."""
    every = modules()
    return {
        name: {x for x in imported(path) if x in every} - {name} for name, path in every.items()
    }


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the import circles: strongly connected sets of two or more modules (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(edges):
        if name not in number:
            visit(name)
    return found


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (lines, name) of every function and method of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def dispatches(path: Path) -> list[int]:
    """Return the line of every call of hasattr and getattr in a file."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
    ]


def main() -> None:
    """Print the figures."""
    every, edges = modules(), graph()
    lines = {name: len(path.read_text().splitlines()) for name, path in every.items()}
    rooms: dict[str, int] = {}
    for name, count in lines.items():
        parts = name.split(".")
        room = parts[1] if (SA / parts[-1 if len(parts) == 1 else 1]).is_dir() else "(top)"
        rooms[room] = rooms.get(room, 0) + count
    loops = circles(edges)
    arrows = sum(map(len, edges.values()))
    print(f"{len(every)} modules, {arrows} imports, {sum(lines.values())} lines")
    print(f"{len(loops)} circles" + "".join(f"\n  {' '.join(loop)}" for loop in loops))
    print(f"{sum(len(dispatches(path)) for path in every.values())} calls of hasattr and getattr")
    print("lines by room: " + ", ".join(f"{k} {v}" for k, v in sorted(rooms.items())))
    top = sorted(p.name for p in SA.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())
    print(f"{len(top)} files and packages at the top: {', '.join(top)}")
    longest = sorted(((count, name) for name, count in lines.items()), reverse=True)
    print("longest files: " + ", ".join(f"{name} {count}" for count, name in longest[:8]))
    long = sorted(
        ((n, f"{m}:{f}") for m, p in every.items() for n, f in functions(p)), reverse=True
    )
    print("longest functions: " + ", ".join(f"{name} {n}" for n, name in long[:12]))


if __name__ == "__main__":
    main()
