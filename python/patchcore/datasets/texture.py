"""Texture of every lesion of a study: ``texture.csv``, one row per lesion, beside the volumes."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from patchcore import _core
from patchcore.datasets.preload import load_readers
from patchcore.datasets.row_log import RowLog
from patchcore.errors import DataError, PatchcoreError, StudyError
from patchcore.files import write_atomic
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.lesions.spans import span_places
from patchcore.lesions.texture import check_bins, texture_features
from patchcore.study import Study
from patchcore.study.cases import CaseRecord
from patchcore.threads import checked_threads, for_each
from patchcore.types import Affine, AnyArray, BoolArray, Float64Array, PathLike, Triple

__all__ = ["TextureTable", "texture"]

_MARGIN_MM = 7.0
"""A ball of 1 mL around a voxel of the lesion reaches so far beyond it."""
_SAME_MM = 1e-3
_SHELL_MM = 5.0
"""The surroundings of a lesion reach so far."""
_COLUMNS = ("case_id", "patient", "label", "lesion", "volume_mm3", "equivalent_diameter_mm")


@dataclass(frozen=True)
class TextureTable:
    """The written table.

    Attributes:
        path: ``STUDY/texture.csv``.
        lesions: Number of its rows.
        failed: Cases that could not be used, with the reason.
        notes: Lesions for which some features are not defined, in words.
    """

    path: Path
    lesions: int
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _CaseRows:
    """The rows of the lesions of one case."""

    case_id: str
    rows: list[dict[str, Any]]


def texture(
    source: Study | PathLike,
    *,
    bin_width: float | None = 25.0,
    bin_count: int | None = None,
    intensity_range: tuple[float, float] | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TextureTable:
    """Compute IBSI's features of every lesion of a study, in HU on the grid of its scan, and write ``texture.csv``.

    Rows are those of ``lesions.csv`` for cases with an image. ``contrast_hu``, which is no feature of IBSI, is the mean
    of the lesion minus the mean of its surroundings: what lies within 5 mm of it. An interrupted call continues with
    the missing cases.

    Args:
        source: A measured study, or its path.
        bin_width: Width of a grey level [HU].
        bin_count: Number of grey levels between the smallest and largest HU of a lesion, instead of `bin_width`.
        intensity_range: Only voxels between these HU are used, except for the shape.
        threads: Number of cases at the same time [default: all cores].
        on_progress: Called with (cases done, all cases) after each case, in the calling thread.

    Raises:
        StudyError: The study was not measured yet.
        ConfigError: An option is not possible.
        DataError: No lesion could be used; the message contains the first error.
        LockedError: Another process computes the textures of this study.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.texture("study/").lesions  # doctest: +SKIP
        379
    """
    study = source if isinstance(source, Study) else Study(source)
    if bin_count is not None:
        bin_width = None
    check_bins(bin_width, bin_count, intensity_range)
    rows = _lesions(study)
    settings = {"bin_width": bin_width, "bin_count": bin_count, "intensity_range": intensity_range}
    records = [record for record in study.accepted() if record.case_id in rows and record.image is not None]
    load_readers(volume for record in records for volume in record.volumes)
    with study.lock("texture"):
        fingerprint = study.fingerprint()
        log = RowLog(
            study.path / "texture.unfinished.jsonl",
            {"patchcore": _core.__version__, "rows": 2, "fingerprint": fingerprint.fingerprint_hash} | settings,
            write=asdict,
            read=lambda values: _CaseRows(**values),
        )
        found = {record.case_id: log.find(record) for record in records}
        failed: dict[str, str] = {}
        missing = [record for record in records if found[record.case_id] is None]

        def measure(record: CaseRecord) -> list[dict[str, Any]] | str:
            try:
                return _of_case(record, rows[record.case_id], fingerprint.connectivity, settings)
            except (PatchcoreError, OSError, MemoryError) as error:
                return str(error) or type(error).__name__

        def done(index: int, result: list[dict[str, Any]] | str) -> None:
            record = missing[index]
            if isinstance(result, str):
                failed[record.case_id] = result
            else:
                found[record.case_id] = _CaseRows(record.case_id, result)
                log.add(record, _CaseRows(record.case_id, result))
            if on_progress is not None:
                on_progress(len(failed) + sum(one is not None for one in found.values()), len(records))

        for_each(measure, missing, threads=checked_threads(threads), name="texture", done=done)
        table = [row for one in found.values() if one is not None for row in one.rows]
        if not table:
            reason = f"; first error: {next(iter(failed.values()))}" if failed else ": none has an image and a lesion"
            raise DataError(f"no lesion of {len(records)} cases could be used{reason}", path=study.path)
        path = study.path / "texture.csv"
        write_atomic(path, _csv(table))
        log.remove()
    notes = [f"{row['case_id']} lesion {row['lesion']}: {row['note']}" for row in table if row["note"]]
    return TextureTable(path, len(table), tuple(sorted(failed.items())), tuple(notes))


def _lesions(study: Study) -> dict[str, list[dict[str, str]]]:
    """Return the rows of ``lesions.csv`` by case."""
    path = study.path / "lesions.csv"
    if not path.exists():
        raise StudyError("the study was not measured yet", path=study.path, remedy="run patchcore analyze")
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            rows[row["case_id"].removeprefix("'")].append(row)
    return dict(rows)


def _of_case(
    record: CaseRecord, rows: list[dict[str, str]], connectivity: int, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    image = record.read_image()
    if record.instances:
        spans = record.label_spans(1, connectivity=connectivity)
    else:
        spans = lesion_spans(record.read_label().array, connectivity=connectivity)
    centroids = _centroids(spans)
    found = []
    for row in rows:
        lesion = _component(row, spans, centroids)
        values, mask, spacing = _around(spans, lesion, image.array, image.affine)
        try:
            features = texture_features(values, mask, spacing=spacing, **settings)
            note = _note(values[mask], features)
        except DataError as error:  # one lesion of fat or calcium does not cost the others
            features, note = dict.fromkeys(_names(), math.nan), error.message
        one = {name: row[name] for name in _COLUMNS} | {"note": note, "contrast_hu": _contrast(values, mask, spacing)}
        found.append(one | {"features": {name: None if math.isnan(x) else x for name, x in features.items()}})
    return found


def _contrast(values: AnyArray, mask: BoolArray, spacing: Triple) -> float | None:
    """Return the mean of a lesion minus the mean within 5 mm around it, HU; None if there is nothing around it."""
    from scipy.ndimage import distance_transform_edt

    away = distance_transform_edt(~mask, sampling=spacing)
    around = values[(away > 0) & (away <= _SHELL_MM)]
    return float(values[mask].mean(dtype=np.float64) - around.mean(dtype=np.float64)) if around.size else None


@cache
def _names() -> tuple[str, ...]:
    cube = np.ones((2, 2, 2))
    return tuple(texture_features(cube, cube > 0))


def _note(values: AnyArray, features: Mapping[str, float]) -> str:
    if values.size == 1:
        return "one voxel: texture is not defined"
    if values.min() == values.max():
        return "one intensity: texture is not defined"
    return "one grey level: correlations are not defined" if features["ih_range"] == 0 else ""


def _centroids(spans: LesionSpans) -> Float64Array:
    middle = spans.origin.astype(np.float64)
    middle[:, spans.axis] += (spans.length - 1) / 2
    sums = np.stack(
        [np.bincount(spans.lesion, middle[:, axis] * spans.length, spans.lesion_count) for axis in range(3)], axis=1
    )
    return np.asarray(sums / spans.voxel_count[:, None], dtype=np.float64)


def _component(row: Mapping[str, str], spans: LesionSpans, centroids: Float64Array) -> int:
    """Return the number of the component that a row of ``lesions.csv`` describes."""
    centre = np.array([float(row[f"centroid_{axis}"]) for axis in "ijk"])
    away = np.abs(centroids - centre).max(axis=1)
    away[spans.voxel_count != int(row["voxel_count"])] = np.inf
    nearest = int(away.argmin()) if len(away) else 0
    if not len(away) or away[nearest] > _SAME_MM:
        raise DataError(
            f"lesion {row['lesion']} of lesions.csv is not in the label map any more",
            case_id=row["case_id"],
            remedy="run patchcore analyze again",
        )
    return nearest


def _around(spans: LesionSpans, lesion: int, image: AnyArray, affine: Affine) -> tuple[AnyArray, BoolArray, Triple]:
    """Return the box around a lesion in canonical axis order: intensities, mask and spacing."""
    places = [place for _, place in span_places(spans, lesion)]
    steps = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    margin = [math.ceil(_MARGIN_MM / step) for step in steps]
    low = [max(0, min(place[axis].start for place in places) - margin[axis]) for axis in range(3)]
    high = [min(image.shape[axis], max(place[axis].stop for place in places) + margin[axis]) for axis in range(3)]
    mask = np.zeros([b - a for a, b in zip(low, high, strict=True)], dtype=np.bool_)
    for place in places:
        mask[tuple(slice(one.start - a, one.stop - a) for one, a in zip(place, low, strict=True))] = True
    values = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    turn = nibabel.orientations.io_orientation(affine)
    order = np.argsort(turn[:, 0])
    values = nibabel.orientations.apply_orientation(values, turn)
    mask = nibabel.orientations.apply_orientation(mask, turn)
    a, b, c = (float(steps[axis]) for axis in order)
    return values, mask, (a, b, c)


def _csv(table: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(table[0]["features"])
    writer.writerow([*_COLUMNS, "contrast_hu", *names, "note"])
    for row in table:
        values = ["" if row["features"][name] is None else repr(row["features"][name]) for name in names]
        contrast = "" if row["contrast_hu"] is None else repr(row["contrast_hu"])
        writer.writerow([*(row[name] for name in _COLUMNS), contrast, *values, row["note"]])
    return out.getvalue()
