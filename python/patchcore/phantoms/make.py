"""Makes single phantoms, and data sets of phantoms in any layout."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import DataError
from patchcore.files import read_json, write_atomic, write_json_atomic
from patchcore.locks import FileLock, check_locks
from patchcore.phantoms.case import PhantomCase, PhantomLesion, Planes
from patchcore.phantoms.dicom import require_dicom, write_dicom_case
from patchcore.phantoms.layouts import PHANTOM_LAYOUTS, PhantomLayout, choose_layout
from patchcore.phantoms.scene import Scene
from patchcore.phantoms.spec import LesionSpec, PhantomSpec, choose_spec
from patchcore.phantoms.volumes import write_volumes
from patchcore.phantoms.whole import draw_whole
from patchcore.threads import core_count
from patchcore.types import IntTriple, PathLike, Triple

__all__ = ["PHANTOM_LAYOUTS", "PhantomProgress", "cases_without_room", "make_phantom", "make_phantoms"]

_SCHEMA = 1
_OPEN, _CLOSED = "phantoms.unfinished.json", "phantoms.json"
_LOCK = ".phantoms.lock"
_TABLE = "true_lesions.csv"
_COLUMNS = (
    "case_id",
    "lesion",
    "intended_mm3",
    "voxel_count",
    "volume_mm3",
    "world_x",
    "world_y",
    "world_z",
    "contrast_hu",
    "organ",
    "lesion_label",
)


@dataclass(frozen=True)
class PhantomProgress:
    """Progress while a data set is written: planes and cases done, and their totals."""

    done: int
    total: int
    cases_done: int
    cases: int


def make_phantom(spec: PhantomSpec, *, seed: int, index: int = 0) -> PhantomCase:
    """Make one phantom as whole arrays.

    Args:
        spec: Properties of the phantom.
        seed: Seed of the data set.
        index: Index of the case in the data set. Each case is drawn independently of the others.

    Raises:
        DataError: A phantom with these properties cannot be made, e.g. the volume is too small to contain a liver.

    Example:
        >>> case = make_phantom(PhantomSpec(shape=(48, 48, 32), spacing=(4.0, 4.0, 5.0)), seed=0)
        >>> case.image.shape, case.image.dtype.name, sorted(set(case.label.ravel().tolist()))
        ((48, 48, 32), 'int16', [0, 1, 2])
    """
    spec.check()
    drawn = _draw(spec, seed, index)
    return drawn.whole() if isinstance(drawn, Scene) else drawn


def make_phantoms(
    out: PathLike,
    *,
    cases: int = 12,
    seed: int = 0,
    preset: str = "mixed",
    layout: str = "two-folders",
    spec: PhantomSpec | None = None,
    shape: IntTriple | None = None,
    spacing: Triple | None = None,
    threads: int | None = None,
    slab: int = 16,
    progress: Callable[[PhantomProgress], None] | None = None,
) -> Path:
    """Write a data set of phantoms in a common layout, with the true lesions in ``true_lesions.csv``.

    ``phantoms.json`` records the settings and exists only when the data set is complete. Before that, the file is
    called ``phantoms.unfinished.json``, and the same call continues with the missing files. The layout does not change
    any voxel. The number of cases does not change the individual cases. A lesion without room is skipped, see
    :func:`cases_without_room`.

    Args:
        out: Folder of the data set: new, empty, or left unfinished by the same call.
        cases: Number of cases. Each case has its own patient, except in the layout ``manifest``.
        seed: Random seed. The same seed and spec give the same bytes.
        preset: One of :data:`PHANTOM_PRESETS`. Ignored if `spec` is given.
        layout: One of :data:`PHANTOM_LAYOUTS`.
        spec: Properties of the phantoms, instead of a preset.
        shape: Overrides the shape of the spec [voxels], canonical axes.
        spacing: Overrides the spacing of the spec [mm]. A large `shape` without a spacing gets 0.75 × 0.75 × 1 mm.
        threads: Number of threads: cases are written in parallel, and so are the planes of a case if there are fewer
            cases than threads [default: the number of cores, at most 8].
        slab: Number of planes between two checks whether to stop. It does not change the files.
        progress: Called with the progress, from several threads, one at a time.

    Returns:
        The folder.

    Raises:
        DataError: The preset, layout, number of cases, seed, threads or slab is not valid, the folder is not empty, or
            the volume cannot be made.
        MissingExtraError: The layout is ``dicom``, and the ``dicom`` extra is not installed.
        LockedError: Another process is making phantoms in this folder.
        OSError: The folder cannot be written.
    """
    spec = choose_spec(preset, spec=spec, shape=shape, spacing=spacing)
    chosen = choose_layout(layout, spec)
    if cases < 1:
        raise DataError(f"{cases} cases cannot be made", found=cases, remedy="use at least one case")
    if seed < 0:
        raise DataError(f"seed {seed} is negative", found=seed, remedy="use 0 or more")
    if slab < 1 or (threads is not None and threads < 1):
        raise DataError("threads and slab must be at least 1", found=(threads, slab), remedy="use at least 1")
    out = Path(out)
    recipe = _recipe(spec, layout=layout, cases=cases, seed=seed)
    if chosen.dicom:
        require_dicom()
    _begun(out, recipe)
    check_locks(out)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / _LOCK, what="the phantom folder"):
        if _begun(out, recipe):
            # Remove the temporary files of a killed process. The lock keeps other processes out.
            for left in out.rglob(".*.tmp"):
                if left.is_file():
                    left.unlink()
        else:
            write_json_atomic(out / _OPEN, recipe)
        maker = _Maker(out, spec, chosen, seed, cases, slab=slab, progress=progress)
        rows = [row for rows in maker.run(threads) for row in rows]
        _close(out, spec, chosen, cases, rows)
    return out


def cases_without_room(folder: PathLike) -> list[str]:
    """Return the cases of a data set of phantoms that have fewer lesions than asked for: there was no room for more.

    Raises:
        DataError: The folder has no complete data set of phantoms.
        OSError: It cannot be read.
    """
    folder = Path(folder)
    if not (folder / _CLOSED).exists():
        raise DataError("contains no complete phantoms", path=folder, remedy="make them with patchcore phantom")
    recipe = read_json(folder / _CLOSED, schema=_SCHEMA)
    kidney = recipe["spec"]["kidney"]
    spec = PhantomSpec(**recipe["spec"] | {"kidney": kidney and LesionSpec(**kidney)})
    layout = choose_layout(recipe["layout"], spec)
    with (folder / _TABLE).open(newline="", encoding="utf-8") as file:
        drawn = Counter(row["case_id"] for row in csv.DictReader(file))
    least = sum(group.count[0] for group in spec.groups)
    return [case_id for case_id in map(layout.id_of, range(recipe["cases"])) if drawn[case_id] < least]


def _close(out: Path, spec: PhantomSpec, layout: PhantomLayout, cases: int, rows: Sequence[list[object]]) -> None:
    """Write the table of lesions and the description of the data set, then mark the data set as complete."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS, *rows])
    write_atomic(out / _TABLE, table.getvalue())
    if layout.document is not None and layout.describe is not None:
        document = layout.describe(spec, [layout.id_of(i) for i in range(cases)])
        if isinstance(document, str):
            write_atomic(out / layout.document, document)
        else:
            write_json_atomic(out / layout.document, document)
    (out / _LOCK).unlink()
    (out / _OPEN).replace(out / _CLOSED)


def _draw(spec: PhantomSpec, seed: int, index: int) -> Scene | PhantomCase:
    return Scene(spec, seed=seed, index=index) if spec.streamed else draw_whole(spec, seed=seed, index=index)


def _recipe(spec: PhantomSpec, *, layout: str, cases: int, seed: int) -> dict[str, Any]:
    labels = {str(number): name for number, name in spec.label_names.items()}
    return {
        "schema_version": _SCHEMA,
        "layout": layout,
        "cases": cases,
        "seed": seed,
        "labels": labels,
        "spec": asdict(spec),
    }


def _begun(out: Path, recipe: dict[str, Any]) -> bool:
    """Return True if the folder is unfinished with the same recipe, and False if it is new or empty.

    Raises:
        DataError: The folder contains anything else.
    """
    if out.exists() and not out.is_dir():
        raise DataError("is a file, not an empty folder", path=out, remedy="use a new folder for the phantoms")
    if (out / _OPEN).exists():
        begun = read_json(out / _OPEN, schema=_SCHEMA)
        wanted = json.loads(json.dumps(recipe))
        if begun != wanted:
            other = ", ".join(sorted(key for key in wanted if begun.get(key) != wanted[key]))
            raise DataError(
                f"contains unfinished phantoms with another {other}",
                path=out,
                found={key: begun.get(key) for key in ("layout", "cases", "seed")},
                remedy="repeat the original command, or use a new folder",
            )
        return True
    if out.exists() and any(item.name != _LOCK for item in out.iterdir()):
        whole = (out / _CLOSED).exists()
        raise DataError(
            "is not an empty folder" + (": it contains finished phantoms" if whole else ""),
            path=out,
            remedy="use a new folder for the phantoms",
        )
    return False


class _Stopped(Exception):  # noqa: N818
    """Another thread failed, or the user pressed Ctrl-C."""


class _Maker:
    """Writes the cases of one data set with several threads."""

    def __init__(
        self,
        out: Path,
        spec: PhantomSpec,
        layout: PhantomLayout,
        seed: int,
        cases: int,
        *,
        slab: int,
        progress: Callable[[PhantomProgress], None] | None,
    ) -> None:
        self._out, self._spec, self._layout, self._seed, self._cases = out, spec, layout, seed, cases
        self._slab, self._progress = slab, progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._planes = self._cases_done = 0
        self._threads_each = 1

    def run(self, threads: int | None) -> list[list[list[object]]]:
        """Write all cases. Return the lesion rows of each case, in the order of the cases."""
        threads = threads or self._default_threads()
        count = min(threads, self._cases)
        self._threads_each = threads // count
        results: list[list[list[object]]] = [[] for _ in range(self._cases)]
        with ThreadPoolExecutor(count) as pool:
            try:
                for index, rows in self._submit(pool, count):
                    results[index] = rows
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results

    def _default_threads(self) -> int:
        return min(core_count(), 8)

    def _submit(self, pool: ThreadPoolExecutor, count: int) -> Iterator[tuple[int, list[list[object]]]]:
        """Yield the rows of each case when it is done. At most one case more than there are threads is submitted."""
        pending: dict[Future[list[list[object]]], int] = {}
        todo = iter(range(self._cases))
        while True:
            for index in todo:
                pending[pool.submit(self._one, index)] = index
                if len(pending) > count:
                    break
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()

    def _one(self, index: int) -> list[list[object]]:
        if self._stop.is_set():
            raise _Stopped
        case_id = self._layout.id_of(index)
        case = _draw(self._spec, self._seed, index)
        codes = self._spec.orientations[index % len(self._spec.orientations)]
        if self._layout.dicom:
            write_dicom_case(
                self._out / case_id,
                case,
                organs=self._spec.organ_names,
                patient=case_id,
                seed=(self._seed, index),
                advance=self._advance,
            )
        else:
            self._write_nifti(case, case_id, codes)
        with self._lock:
            self._cases_done += 1
            self._report()
        return _rows(case_id, case.affine, case.lesions)

    def _write_nifti(self, case: Planes, case_id: str, codes: str) -> None:
        paths = []
        for pattern in (self._layout.image, self._layout.label):
            path = None if pattern is None else self._out / pattern.format(case_id)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                # The file is complete: an earlier call wrote it.
                if path.exists():
                    path = None
            paths.append(path)
        if paths == [None, None]:
            self._advance(case.shape[2])
            return
        write_volumes(
            case,
            codes,
            image=paths[0],
            label=paths[1],
            slab=self._slab,
            threads=self._threads_each,
            advance=self._advance,
        )

    def _advance(self, planes: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            self._planes += planes
            self._report()

    def _report(self) -> None:
        if self._progress is not None:
            total = self._cases * self._spec.shape[2]
            self._progress(PhantomProgress(min(self._planes, total), total, self._cases_done, self._cases))


def _rows(case_id: str, affine: np.ndarray[Any, Any], lesions: Sequence[PhantomLesion]) -> list[list[object]]:
    rows: list[list[object]] = []
    for number, lesion in enumerate(lesions, 1):
        world = affine[:3, :3] @ np.array(lesion.centre) + affine[:3, 3]
        numbers = (lesion.volume_mm3, *world.tolist(), lesion.contrast_hu)
        rows.append(
            [
                case_id,
                number,
                f"{lesion.intended_mm3:.3f}",
                lesion.voxel_count,
                *(f"{x:.3f}" for x in numbers),
                lesion.organ,
                lesion.label,
            ]
        )
    return rows
