"""Inspects a store: lists its cases and finds damaged ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchcore.errors import PatchcoreError, StudyError
from patchcore.store.array import StoredArray
from patchcore.store.facts import read_attributes, read_failed, read_table
from patchcore.types import PathLike

__all__ = ["InspectedCase", "InspectedGroup", "inspect_store", "stored_bytes"]


@dataclass(frozen=True)
class InspectedCase:
    """One case of a store. `problem` describes the damage; None if the case is intact."""

    case_id: str
    shape: tuple[int, ...]
    lesions: int
    bytes: int
    problem: str | None


@dataclass(frozen=True)
class InspectedGroup:
    """The cases prepared for one plan.

    Attributes:
        path: Folder of the group.
        spacing: mm per voxel, canonical axes.
        cases: The prepared cases.
        failed: Case id → reason, for cases that could not be prepared.
    """

    path: Path
    spacing: tuple[float, ...]
    cases: tuple[InspectedCase, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size on disk [bytes]."""
        return sum(case.bytes for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON can store."""
        return asdict(self) | {"path": str(self.path)}


def inspect_store(
    study: PathLike, *, verify: bool = True, on_progress: Callable[[int, int], None] | None = None
) -> tuple[InspectedGroup, ...]:
    """Inspect every case in the store of a study.

    Args:
        study: The study folder.
        verify: Whether to read every chunk and compare its checksum.
        on_progress: Called with (cases done, all cases) after each case.

    Returns:
        One group per plan for which cases were prepared.

    Raises:
        StudyError: The study has no store.
    """
    root = Path(study) / "store.zarr"
    if not root.is_dir():
        raise StudyError("the study has no store yet", path=root.parent, remedy="run patchcore prepare STUDY first")
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
        spacing = read_attributes(path).get("spacing", ())
        groups.append(InspectedGroup(path, tuple(spacing), tuple(found), read_failed(path)))
    return tuple(groups)


def stored_bytes(folder: Path) -> int:
    """Return the total size of all files below a folder [bytes]."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_case(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _inspect_case(folder: Path, *, verify: bool) -> InspectedCase:
    meta = read_attributes(folder)
    size = stored_bytes(folder)
    problem = None if meta else f"{folder / 'zarr.json'} does not describe a case"
    try:
        for name in ("image", "label"):
            array = StoredArray(folder / name)
            if lack := array.missing():
                problem = lack
            if meta and list(array.shape) != list(meta.get("shape", ())):
                problem = (
                    f"{folder / name}: shape {array.shape} does not match the case, {tuple(meta.get('shape', ()))}"
                )
            if verify:
                array.verify()
        for name in ("spans.npy", "class_spans.npy"):
            read_table(folder / name)
    except (PatchcoreError, OSError) as error:
        problem = str(error)
    lesions = meta.get("lesion_voxels", ())
    return InspectedCase(folder.name, tuple(meta.get("shape", ())), len(lesions), size, problem)
