"""Tests the package itself: imports, exports, errors and docstring examples."""

from __future__ import annotations

import doctest
import importlib
import pickle
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

import patchcore
from patchcore import errors

HEAVY = ("torch", "monai", "textual", "matplotlib", "scipy", "nibabel", "pydantic")
LIGHT_ROOMS = (
    "cli", "config", "datasets", "lesions", "metrics", "phantoms", "planning", "resampling", "runs", "store", "study",
    "tui", "views", "volumes", "windows",
)  # fmt: skip


def loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, encoding="utf-8")
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import patchcore").intersection(HEAVY)


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_leave_torch_and_monai_unloaded(room: str) -> None:
    code = (
        "import importlib, pkgutil\n"
        f"room = importlib.import_module('patchcore.{room}')\n"
        "for found in pkgutil.walk_packages(getattr(room, '__path__', []), room.__name__ + '.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
    )
    assert not loaded_after(code).intersection({"torch", "monai"})


def test_every_public_name_is_there() -> None:
    for name in patchcore.__all__:
        assert getattr(patchcore, name) is not None
    assert set(patchcore.__all__) <= set(dir(patchcore))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = patchcore.nothing


def test_errors_belong_to_the_families_people_catch() -> None:
    for name in set(errors.__all__) - {"ExitCode"}:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.PatchcoreError)
        assert kind.__module__ == "patchcore.errors"
    assert issubclass(errors.DataError, ValueError)
    assert issubclass(errors.RunError, RuntimeError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = errors.ShapeMismatchError("shape (1, 2, 3)", case_id="case_1", path="a/b.nii", remedy="export it again")
    assert str(error) == "case_1: a/b.nii: shape (1, 2, 3); export it again"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.case_id) == (type(error), str(error), "case_1")


def modules() -> list[str]:
    found = pkgutil.walk_packages(patchcore.__path__, "patchcore.")
    return sorted(m.name for m in found if not m.name.endswith(("__main__", "_core")))


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # examples do not remove their files
    module: ModuleType = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0
