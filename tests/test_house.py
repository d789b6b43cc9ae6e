"""The house: rooms that import downward only, no two public things of one name, short signatures and modules."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Rooms of ``autoseg`` from the bottom up; those of one line don't import each other.
LAYERS = (
    {"utils"},
    {"plans", "data"},
    {"runs"},
    {"preprocessing", "networks", "evaluation"},
    {"step"},
    {"planning"},
    {"postprocessing"},
    {"inference"},
    {"training"},
    {"transfer"},
    {"crossvalidation"},
    {"report", "interop", "study"},
    {"clinical"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

#: What a planner may import besides what planning may.
FOR_PLANNERS = {"planning", "transfer"}

#: Functions that a seam calls by their name, one in each module.
HOOKS = {"plan", "recognise", "read", "command"}

#: Parameters of a function outside the command line, and lines of a module, at most.
PARAMETERS, LINES = 7, 450

#: Functions that are put in the place of others, whose parameters they don't know.
STANDING_IN = {"benchmarks/unchanged_side.py: time_step", "benchmarks/unchanged_side.py: call"}


#: Packages that are installed; programs beside them are held to the same sizes.
PACKAGES = ("autoseg", "planners")


def modules(packages: Sequence[str] = PACKAGES) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def room(dotted: str) -> str:
    first, *rest = dotted.split(".")
    return "planners" if first == "planners" else (rest[0] if rest else "")


def imports(tree: ast.Module) -> Iterator[str]:
    """Rooms that a module imports, wherever in it."""
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (room(name) for name in names if name.split(".")[0] in ("autoseg", "planners"))


def allowed(importing: str, imported: str) -> bool:
    if imported in ("", importing):
        return True
    if importing == "planners":
        return imported in FOR_PLANNERS or LEVEL[imported] < LEVEL["planning"]
    return imported != "planners" and LEVEL[imported] < LEVEL[importing]


def test_imports_go_down() -> None:
    wrong = [
        f"{path} imports {imported}"
        for path, tree in modules()
        if len(path.parts) > 2 or path.parts[0] == "planners"
        for imported in imports(tree)
        if not allowed(room(".".join(path.parts)), imported)
    ]
    assert wrong == []


def test_no_loose_modules() -> None:
    loose = {path.name for path in (ROOT / "autoseg").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_no_two_public_things_of_one_name() -> None:
    where = defaultdict(set)
    for path, tree in modules():
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                where[name].add(str(path))
    twice = {name: places for name, places in where.items() if len(places) > 1 and not name.startswith("_")}
    assert {name: places for name, places in twice.items() if name not in HOOKS} == {}


def test_signatures_and_modules_are_short() -> None:
    wide, long = [], []
    for path, tree in modules((*PACKAGES, "benchmarks")):
        lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
        long += [f"{path}: {lines} lines"] if lines > LINES else []
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or "cli" in path.parts:
                continue
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given += [node.args.vararg] if node.args.vararg is not None else []
            count = len([argument for argument in given if argument.arg not in ("self", "cls")])
            wide += [f"{path}: {node.name} has {count} parameters"] if count > PARAMETERS else []
            any_keyword = node.args.kwarg is not None and f"{path}: {node.name}" not in STANDING_IN
            wide += [f"{path}: {node.name} takes any keyword"] if any_keyword else []
    assert (wide, long) == ([], [])


def attributes(node: ast.AST) -> set[str]:
    """Names of the attributes of ``self`` that are set somewhere in it."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
        if isinstance(one.value, ast.Name) and one.value.id == "self"
    }


def declared(kind: ast.ClassDef) -> set[str]:
    """Names that stand in the body of a class, as fields of a dataclass do, or are set in ``__init__``."""
    targets: list[ast.expr] = []
    found: set[str] = set()
    for node in kind.body:
        targets += node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= attributes(node) if isinstance(node, ast.FunctionDef) and node.name == "__init__" else set()
    return found | {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def test_attributes_are_defined_in_init() -> None:
    kinds = [
        (path, node)
        for path, tree in modules((*PACKAGES, "benchmarks"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    named = {kind.name: kind for _, kind in kinds}

    def known(kind: ast.ClassDef) -> set[str]:
        bases = [named[base.id] for base in kind.bases if isinstance(base, ast.Name) and base.id in named]
        return declared(kind).union(*map(known, [base for base in bases if base is not kind]))

    late = [
        f"{path}: {kind.name}.{attribute}"
        for path, kind in kinds
        for attribute in sorted(attributes(kind) - known(kind))
    ]
    assert late == []


def test_the_mechanism_names_no_planner() -> None:
    """Not in a message, not as a default; names that are also a network family's stand for that where it is built."""
    names = {point.name for point in entry_points(group="autoseg.planners")}
    of_families = {"plans", "networks", "interop", "data"}
    found = [
        f"{path}: {node.value}"
        for path, tree in modules()
        if path.parts[0] == "autoseg" and path.parts[1] not in of_families
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []


@pytest.mark.parametrize(
    ("without", "imported"),
    [
        (("torch", "SimpleITK"), "autoseg.plans.files, autoseg.plans.overrides, autoseg.evaluation.folders"),
        (("torch",), "autoseg.clinical.cohort"),
        (
            ("SimpleITK",),
            "autoseg.networks.weights, autoseg.step.training_step, autoseg.training.loop, "
            "autoseg.inference.sliding_window, autoseg.planning.memory, autoseg.planning.verification",
        ),
    ],
)
def test_what_imports_without_the_heavy_libraries(without: tuple[str, ...], imported: str) -> None:
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in without)
    subprocess.run([sys.executable, "-c", f"import sys; {hidden}; import {imported}"], check=True)


def test_nothing_names_the_package_of_the_index() -> None:
    """``autoseg`` of PyPI is another project: this one is installed from its clone."""
    folders = [ROOT / name for name in ("autoseg", "planners", "docs", "examples", "benchmarks")]
    files = [path for folder in folders for path in folder.rglob("*.*") if path.suffix in (".md", ".py", ".sh")]
    named = re.compile(r"pip install ['\"]?autoseg|['\"`]autoseg\[")
    wrong = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in (*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        for found in named.finditer(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
