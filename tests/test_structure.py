"""The structure of sa/: which file may import which, folders that mirror each other, live links."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import structure

ROOT = Path(__file__).parents[1]
ROOMS = ("dataset", "quantizer", "model", "estimator", "analysis")
INSIDE = (*ROOMS, "figure")
MAY = {  # module or room of sa -> the modules of sa it may import
    "types": set(),
    "params": {"types"},
    "surrogate": set(),
    "record": {"record"},
    "table": {"table"},
    "tracking": {"record"},
    "dashboard": {"table"},
    "figure": {"table"},
    "network": {"flips", "network", "params", "surrogate", "types"},
    "flips": {"flips", "network", "params", "record", "types"},  # record: its progress bars
    "curvature": {"curvature", "params", "types"},
    "objective": set("curvature flips network objective params surrogate types".split()),
    "dataset": {"params", "types"},
    "quantizer": {"network", "surrogate", "types"},
    "model": {"network", "params", "surrogate", "types"},
    "estimator": {"curvature", "objective", "params", "surrogate", "types", "network"},
    "analysis": {"curvature", "network", "objective", "params", "surrogate", "table", "types"},
    "training": {"network", "objective", "params", "surrogate", "training", "types"},
    "launch": {"config", "job", "launch", "record", "sweep", "table"},
    "sweep": {"figure", "launch", "record", "sweep", "table", "tracking"},
    "config": {
        "config",
        "estimator",
        "network",
        "objective",
        "params",
        "record",
        "training",
        "types",
    },
    "data": {"dataset", "record", "types"},
    "testing": {"network", "objective", "params", "surrogate", "testing", "types"},
    "job": set(
        "analysis config job network objective params record table tracking training types".split()
    ),
    "run": {"config", "job", "launch", "record", "run", "sweep", "table", "testing"},
}
HYDRA = {"config", "run"}  # the only modules that may import Hydra
NO_TORCH = set("dashboard data figure launch record sweep table tracking".split())


def modules():
    return sorted((ROOT / "sa").rglob("*.py"))


def place(path):
    """Return the module's row in the table: its room, or its own name."""
    parts = path.relative_to(ROOT / "sa").with_suffix("").parts
    return parts[0]


def imports(path):
    """Return every module name imported anywhere in a file, lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module in ("sa", *(f"sa.{r}" for r in ROOMS)):
                yield from (f"{node.module}.{a.name}" for a in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_import_only_what_the_table_allows(path):
    mine = place(path)
    if mine == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "sa" and len(parts) > 1:
            inside = mine in INSIDE and parts[1] == mine
            if inside:  # members of a room may import only its underscore helpers
                assert len(parts) == 2 or parts[2].startswith("_"), f"{path} imports {name}"
            else:
                assert parts[1] in MAY[mine], f"{path} imports {name}"
        if parts[0] in ("hydra", "omegaconf"):
            assert mine in HYDRA, f"{path} knows Hydra"
        if parts[0] == "torch":
            assert mine not in NO_TORCH, f"{path} knows torch"
        assert parts[0] not in ("tests", "launchers", "benchmarks"), f"{path} imports {name}"


def test_no_files_import_each_other_in_a_circle_lazy_imports_included():
    assert structure.circles(structure.graph()) == []


def test_import_circles_of_any_length_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": {"d"}, "f": {"f"}}
    assert sorted(structure.circles(edges)) == [["b", "c"], ["d", "e"]]


def test_at_most_12_places_use_hasattr_or_getattr_each_with_a_comment():
    places = [(path, line) for path in modules() for line in structure.dispatches(path)]
    assert len(places) <= 12
    for path, line in places:
        text = path.read_text().splitlines()
        assert "#" in text[line - 1] or text[line - 2].lstrip().startswith("#"), f"{path}:{line}"


WHOLE = {"sa/training/loop.py:loop", "sa/curvature/solve.py:top"}
"""Functions over 60 lines that would not be clearer in parts."""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_has_over_400_lines_and_no_function_over_60(path):
    assert len(path.read_text().splitlines()) <= 400
    name = path.relative_to(ROOT)
    assert {
        f for n, f in structure.functions(path) if n > 60 and f"{name}:{f}" not in WHOLE
    } == set()


def test_the_top_of_sa_has_at_most_16_files_and_packages_beside_rooms_and_commands():
    beside = {"__init__", "__pycache__", "py", "run", "data", "dashboard", "testing", *ROOMS}
    top = {p.stem for p in (ROOT / "sa").iterdir() if p.suffix in ("", ".py")}
    assert len(top - beside - {"conf"}) <= 16


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_init_files_hold_only_a_docstring():
    for path in (ROOT / "sa").glob("*/__init__.py"):  # sa/__init__.py holds the public names
        if path.parent.name == "testing":  # a public module, too
            continue
        assert len(ast.parse(path.read_text()).body) == 1, path


def targets(group):
    """Return (YAML file, class path) of every component named in a group's files."""

    def walk(node):
        if isinstance(node, dict):
            if "_target_" in node:
                yield node["_target_"]
            for v in node.values():
                yield from walk(v)
        if isinstance(node, list):
            for v in node:
                yield from walk(v)

    for path in sorted((ROOT / "conf" / group).rglob("*.yaml")):
        for target in walk(yaml.safe_load(path.read_text())):
            yield path, target


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_room_is_configured_by_a_yaml_file_in_conf(room):
    files = {p.stem for p in (ROOT / "sa" / room).glob("[a-z]*.py")}
    named = {t.split(".")[2] for _, t in targets(room) if t.startswith(f"sa.{room}.")}
    assert named == files


@pytest.mark.parametrize("room", ["estimator", "model", "dataset", "analysis"])
def test_a_yaml_named_like_a_file_configures_its_class(room):
    for path, target in targets(room):
        _, where, file, name = (target.split(".") + [""])[:4]
        if where == room and path.stem == file:
            assert name.lower() == file.replace("_", ""), f"{path}: {target}"


def test_every_yaml_file_of_a_group_begins_with_a_comment_that_describes_it():
    from sa.config.catalogue import GROUPS, options

    for group in GROUPS:
        assert options(group), group
        for name, about in options(group).items():
            assert about, f"conf/{group}/{name}.yaml"


def test_yaml_names_every_setting_of_its_class():
    import dataclasses
    import importlib

    for room in (*ROOMS, "schedule", "average"):
        for path in sorted((ROOT / "conf" / room).rglob("*.yaml")):
            node = yaml.safe_load(path.read_text())
            if node is None:  # constant, none
                continue
            own = node.get(path.stem)  # an analysis sits under its own name
            node = own if isinstance(own, dict) else node
            target = node.get("_target_", "sa.types.Slots")
            if target == "sa.types.Slots":
                continue
            module, _, name = target.rpartition(".")
            cls = getattr(importlib.import_module(module), name)
            known = {f.name for f in dataclasses.fields(cls)}
            assert set(node) - {"_target_"} == known, path


def test_every_markdown_link_has_an_existing_target():
    for page in [*ROOT.glob("*.md"), *(ROOT / "dev").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not link.startswith(("http://", "https://")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_no_file_holds_an_absolute_path_of_a_machine():
    pattern = re.compile(r"(^|[\s\"'=(])/(home|root|work|Users)/")
    for path in [
        *modules(),
        *(ROOT / "conf").rglob("*.yaml"),
        ROOT / "README.md",
        ROOT / "Makefile",
    ]:
        assert not pattern.search(path.read_text()), path


def test_the_page_of_estimators_is_up_to_date():
    from sa.config.handbook import catalogue_page

    kept = (ROOT / "dev" / "estimators.md").read_text()
    assert kept == catalogue_page() + "\n", "python -m sa.run --catalogue > dev/estimators.md"
