"""Tests the imports of the package: no circles (lazy and type-checking imports count), few imports from the root."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import patchcore

ROOT = Path(patchcore.__file__).parent
LEAVES = {
    "affines", "arrays", "case_ids", "control_groups", "errors", "files", "interrupts", "launched", "locks", "memory",
    "notebook", "processes", "shares", "threads", "types", "version",
}  # fmt: skip
# The compiled core is not a Python module; the version is defined in the root.
FROM_ROOT = {"_core", "__version__"}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ["patchcore", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the package modules that a module imports, at any place in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found |= {inner} if inner in known else {base} if base in known else set()
    return found


def test_there_is_not_a_circle() -> None:
    known = modules()
    graph = {name: imports(path, known) - {name, "patchcore"} for name, path in known.items() if name != "patchcore"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"imports in a circle: {' ← '.join(error.args[1])}") from None


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    # Shows that the test above can fail: it detects a lazy import.
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("from second import x\n")
    second.write_text("def work():\n    import first\n")
    known = {"first": first, "second": second}
    assert imports(first, known) == {"second"}
    assert imports(second, known) == {"first"}


def test_nothing_but_the_core_is_imported_from_the_root() -> None:
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "patchcore":
                children = {alias.name for alias in node.names if f"patchcore.{alias.name}" not in modules()}
                assert children <= FROM_ROOT, f"{name} imports {children} from the root"


def test_only_leaves_lie_at_the_top() -> None:
    tops = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert tops == LEAVES


def test_long_files_say_why() -> None:
    for path in [*ROOT.rglob("*.py"), *(ROOT.parents[1] / "rust").rglob("*.rs")]:
        text = path.read_text(encoding="utf-8")
        most = 400 if path.suffix == ".py" else 600
        if len(text.splitlines()) > most:
            assert "long because" in text[:2000], f"{path} has more than {most} lines and does not say why"
