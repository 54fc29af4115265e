"""`docs/architecture.md` is true: every path and name in it exists, and its rooms are those of the walls."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`\n]+)`")
PATHS = sorted({c.rstrip("/") for c in CODE.findall(PAGE) if "/" in c})
NAMED = sorted(set(re.findall(r"`(ialign_ray/[\w/]+\.py)`\s+`(\w+)`", PAGE)))


def defined(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
    targets = [
        t
        for n in tree.body
        if isinstance(n, ast.Assign | ast.AnnAssign)
        for t in getattr(n, "targets", [getattr(n, "target", None)])
    ]
    return names | {t.id for t in targets if isinstance(t, ast.Name)}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_name_is_defined_where_the_page_says(path, name):
    assert name in defined(path)


def pages():
    return [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    every = {path.name for path in (ROOT / "tests").rglob("*.py")}
    named = set(re.findall(r"[\w/*.-]*test_[\w*]+\.py", page.read_text(encoding="utf-8")))
    missing = [n for n in named if not (list(ROOT.glob(n)) if "/" in n else n in every)]
    assert missing == []


def test_the_page_names_enough():
    assert len(NAMED) > 25


def test_the_rooms_are_those_of_the_walls_in_their_order():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = [set(layer.split(" | ")) for layer in reversed(contract["layers"])]
    table = [line for line in PAGE.splitlines() if line.startswith("| `ialign_ray/")]
    rooms = [{Path(p).stem for p in re.findall(r"`(ialign_ray/[\w/.]+)`", line.split("|")[1])} for line in table]
    assert rooms == layers


def test_the_root_holds_at_most_eight_files():
    assert len(list((ROOT / "ialign_ray").glob("*.py"))) <= 8


def test_each_class_name_has_one_meaning():
    found = {}
    for path in (ROOT / "ialign_ray").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
