"""What a store holds, case by case, and whether it is sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchcore.errors import PatchcoreError, StudyError
from patchcore.store.array import StoredArray
from patchcore.store.facts import missing_shards, read_attributes, read_failed, read_table
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
        spacing = read_attributes(path).get("spacing", ())
        groups.append(InspectedGroup(path, tuple(spacing), tuple(found), read_failed(path)))
    return tuple(groups)


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
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
            if lack := missing_shards(array):
                problem = f"{folder / name}: {lack}"
            if meta and list(array.shape) != list(meta.get("shape", ())):
                problem = f"{folder / name}: shape {array.shape}, the case has {tuple(meta.get('shape', ()))}"
            if verify:
                array.verify()
        for name in ("spans.npy", "class_spans.npy"):
            read_table(folder / name)
    except (PatchcoreError, OSError) as error:
        problem = str(error)
    lesions = meta.get("lesion_voxels", ())
    return InspectedCase(folder.name, tuple(meta.get("shape", ())), len(lesions), size, problem)
