"""Read a data set that is listed in a file: CSV or JSON with one case per row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchcore.datasets.layouts.described import all_labels
from patchcore.datasets.layouts.files import FolderLog, case_id_problem, exists
from patchcore.errors import DataError
from patchcore.study.layout import CaseFiles, Layout
from patchcore.volumes.volume import NiftiFile

__all__ = ["MANIFEST_NAMES", "is_manifest", "read_manifest"]

MANIFEST_NAMES = ("manifest.csv", "manifest.json", "cases.csv", "cases.json")
"""Names of list files that are searched in the data set's folder, in this order; other lists are given as DATASET."""

_LARGEST = 512 << 20
_SPLITS = {"": "", "train": "train", "training": "train", "val": "train", "validation": "train", "test": "test",
           "testing": "test", "tr": "train", "ts": "test"}  # fmt: skip
_KNOWN = ("case_id", "image", "label", "patient", "split")
_COLUMNS = "case_id, image, label, and optionally patient, split and your own columns"


def is_manifest(path: Path) -> bool:
    """Return whether a file can be a list of cases."""
    return path.suffix.lower() in (".csv", ".json", ".tsv")


def read_manifest(path: Path, log: FolderLog) -> Layout:
    """Read the cases that a file lists.

    Paths are relative to the folder of the file, or absolute. A case without an image is only measured. A case with
    missing files has a problem. ``split`` may be ``train`` or ``test``; other columns are kept.

    Args:
        path: CSV (comma, semicolon or tab) with a header row, or JSON: a list of objects, or an object with a list
            ``cases`` and optionally ``labels`` as in ``dataset.json``.
        log: Remembers the file.

    Raises:
        DataError: The file is not a list of cases, lacks a column, lists a case twice, or has a case id that is not a
            valid file name.
    """
    log.note(path)
    text = _text(path)
    names: dict[int, str] = {}
    if path.suffix.lower() == ".json":
        rows, names = _json_rows(path, text)
    else:
        rows = _csv_rows(path, text)
    if not rows:
        raise DataError(
            "lists no cases", path=path, expected=_COLUMNS, remedy=f"add one row per case, with columns {_COLUMNS}"
        )
    cases: dict[str, CaseFiles] = {}
    for where, row in rows:
        case = _case(path, where, row)
        if case.case_id in cases:
            raise DataError(f"{where}: case {case.case_id} is listed twice", path=path, remedy="give each case one row")
        cases[case.case_id] = case
    tests = sum(case.split == "test" for case in cases.values())
    kept = f"; {tests} kept for testing" if tests else ""
    return Layout(
        name="manifest",
        reason=f"{path.name} lists {len(cases)} case{'' if len(cases) == 1 else 's'}{kept}",
        cases=tuple(cases[case_id] for case_id in sorted(cases)),
        label_names=names,
        override="choose another layout with --layout, or give another list as DATASET",
    )


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"too large for a list of cases ({size} bytes)", path=path, remedy="give another file")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path, remedy="check the path") from None
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 ({error.reason})", path=path, remedy="save the file as UTF-8") from None
    if "\0" in text:
        raise DataError("contains NUL characters: not a text file", path=path, remedy="give another file")
    return text


def _csv_rows(path: Path, text: str) -> list[tuple[str, Mapping[str, str]]]:
    lines = text.splitlines()
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, Mapping[str, str]]] = []
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            where = f"line {reader.line_num}"
            if header is None:
                header = [cell.strip() for cell in row]
                _check_header(path, header)
                continue
            if len(row) > len(header) or len(row) < 1:
                raise DataError(
                    f"{where} has {len(row)} fields, but the header has {len(header)}",
                    path=path,
                    remedy="quote fields that contain the separator",
                )
            rows.append((where, dict(zip(header, (cell.strip() for cell in row), strict=False))))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}", path=path, remedy="save the file as CSV again") from None
    return rows


def _check_header(path: Path, header: list[str]) -> None:
    lowered = [name.casefold() for name in header]
    for name in ("case_id", "label"):
        if name not in lowered:
            raise DataError(
                f"has no column {name}",
                path=path,
                found=header,
                expected=_COLUMNS,
                remedy=f"use the columns {_COLUMNS}",
            )
    twice = sorted({name for name in lowered if name and lowered.count(name) > 1})
    if twice:
        raise DataError(
            f"has duplicate columns: {', '.join(twice)}", path=path, remedy="remove or rename the duplicates"
        )
    for index, name in enumerate(lowered):
        if name in _KNOWN:
            header[index] = name


def _json_rows(path: Path, text: str) -> tuple[list[tuple[str, Mapping[str, str]]], dict[int, str]]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path=path, remedy="correct the file") from None
    names: dict[int, str] = {}
    if isinstance(value, dict):
        names = all_labels(value)
        value = value.get("cases")
    if not isinstance(value, list):
        raise DataError(
            "contains no list of cases", path=path, remedy='write [{"case_id": …, "image": …, "label": …}, …]'
        )
    return [(f"case {number}", _json_row(path, number, item)) for number, item in enumerate(value, 1)], names


def _json_row(path: Path, number: int, item: object) -> dict[str, str]:
    if not isinstance(item, dict):
        raise DataError(f"case {number} is not a JSON object", path=path, remedy="write one object per case")
    row: dict[str, str] = {}
    for key, value in item.items():
        if value is None:
            continue
        if (key in _KNOWN and not isinstance(value, str | int)) or (isinstance(value, bool) and key in _KNOWN):
            raise DataError(f"case {number}: {key} is not text", path=path, found=value, remedy="write it as text")
        row[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for name in ("case_id", "label"):
        if name not in row:
            raise DataError(f"case {number} has no {name}", path=path, expected=_COLUMNS, remedy=f"write {_COLUMNS}")
    return row


def _case(path: Path, where: str, row: Mapping[str, str]) -> CaseFiles:
    case_id = row.get("case_id", "")
    unsafe = case_id_problem(case_id)
    if unsafe:
        raise DataError(
            f"{where}: case_id {case_id[:60]!r} {unsafe}", path=path, remedy="use a case_id that is a valid file name"
        )
    split = _SPLITS.get(row.get("split", "").casefold())
    if split is None:
        raise DataError(
            f"{where}: unknown split {row['split']!r}", path=path, remedy="write train or test, or leave it empty"
        )
    image = _file(path, row.get("image", ""))
    label = _file(path, row.get("label", ""))
    problem = remedy = None
    for what, given, file in (("label map", row.get("label", ""), label), ("image", row.get("image", ""), image)):
        if what == "label map" and not given:
            problem, remedy = "no label map is listed", "add it in the column label"
        elif given and file is None:
            problem, remedy = f"the name of the {what} is not a valid file name", f"correct {path.name}"
        elif file is not None and not exists(file):
            problem = f"the {what} {given} does not exist"
            remedy = f"correct the path in {path.name} (relative to the folder of {path.name})"
        if problem:
            break
    return CaseFiles(
        case_id=case_id,
        image=None if image is None else NiftiFile(image),
        label=NiftiFile(label if label is not None else path.parent / f"{case_id}.nii.gz"),
        problem=problem,
        remedy=remedy,
        patient=row.get("patient") or None,
        split=split,
        columns={key: value for key, value in row.items() if key and key not in _KNOWN},
    )


def _file(path: Path, name: str) -> Path | None:
    if not name or "\0" in name:
        return None
    return path.parent / name
