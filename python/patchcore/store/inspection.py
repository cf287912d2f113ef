"""What a store holds, case by case, and whether it is sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import PatchcoreError, StudyError
from patchcore.store.array import StoredArray
from patchcore.store.case import count_shards
from patchcore.types import PathLike

__all__ = ["InspectedCase", "InspectedGroup", "inspect_store", "stored_bytes"]


@dataclass(frozen=True)
class InspectedCase:
    """One case of a store; `problem` says what is damaged, None where nothing is."""

    case_id: str
    shape: tuple[int, ...]
    lesions: int
    bytes: int
    problem: str | None


@dataclass(frozen=True)
class InspectedGroup:
    """The cases that were prepared for one plan; spacing in mm, canonical axes; `failed`: why others were not."""

    path: Path
    spacing: tuple[float, ...]
    cases: tuple[InspectedCase, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(case.bytes for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return asdict(self) | {"path": str(self.path)}


def inspect_store(
    study: PathLike, *, verify: bool = True, on_progress: Callable[[int, int], None] | None = None
) -> tuple[InspectedGroup, ...]:
    """Look at every case of a study's store.

    Args:
        study: The study.
        verify: Read every chunk and compare its checksum.
        on_progress: Called with (done, of how many) after each case.

    Returns:
        One group for each plan that cases were prepared for.

    Raises:
        StudyError: The study has no store.
    """
    root = Path(study) / "store.zarr"
    if not root.is_dir():
        raise StudyError("the study has no store yet", path=root.parent, remedy="make it with patchcore prepare STUDY")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    cases = {path: [case for case in sorted(path.iterdir()) if _is_case(case)] for path in folders}
    total, done = sum(map(len, cases.values())), 0
    groups = []
    for path in folders:
        found = []
        for case in cases[path]:
            found.append(_inspect_case(case, verify=verify))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        spacing = _attributes(path).get("spacing", ())
        groups.append(InspectedGroup(path, tuple(spacing), tuple(found), _failed(path)))
    return tuple(groups)


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_case(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _failed(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "failed.json").read_bytes())["cases"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(case_id): str(reason) for case_id, reason in found.items()} if isinstance(found, dict) else {}


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "zarr.json").read_bytes())["attributes"]["patchcore"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _inspect_case(folder: Path, *, verify: bool) -> InspectedCase:
    meta = _attributes(folder)
    size = stored_bytes(folder)
    problem = None if meta else f"{folder / 'zarr.json'} does not describe a case"
    try:
        for name in ("image", "label"):
            array = StoredArray(folder / name)
            wanted = array.attributes.get("patchcore", {}).get("shards")
            found = count_shards(folder / name)["patchcore"]["shards"]
            if wanted is not None and found != wanted:
                problem = f"{folder / name}: {found} shards of {wanted}"
            if meta and list(array.shape) != list(meta.get("shape", ())):
                problem = f"{folder / name}: shape {array.shape}, the case has {tuple(meta.get('shape', ()))}"
            if verify:
                array.verify()
        for name in ("spans.npy", "class_spans.npy"):
            table = np.load(folder / name, allow_pickle=False)
            if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != 5:
                problem = f"{folder / name}: {table.dtype} {table.shape}"
    except (PatchcoreError, OSError, ValueError, EOFError) as error:
        problem = str(error)
    lesions = meta.get("lesion_voxels", ())
    return InspectedCase(folder.name, tuple(meta.get("shape", ())), len(lesions), size, problem)
