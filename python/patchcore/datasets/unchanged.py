"""Detect whether anything has changed since the last analysis, from file stamps and with the standard library only.

An analysis without changes has to answer immediately: importing NumPy alone takes longer than the check of all files.
In case of doubt, the data set counts as changed, and the full analysis runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from patchcore.version import package_version

__all__ = ["answer", "forget", "remember", "signatures"]

# Raised whenever the content of an output changes, so that an older answer is not repeated.
_SCHEMA = 3
_FILE = "unchanged.json"
_OUTPUTS = (
    "study.json", "decisions.json", "cases.jsonl", "measures.jsonl", "fingerprint.json", "lesions.csv",
    "segments.csv", "summary.txt", "summary.json",
)  # fmt: skip


def signatures(paths: Iterable[Path]) -> dict[str, Any]:
    """Return a signature for each file or folder; it changes with the file, or with the entries of the folder."""
    return {str(path): _signature(str(path)) for path in paths}


def forget(study: Path) -> None:
    """Delete the memory of the last analysis, because a new analysis begins."""
    (study / _FILE).unlink(missing_ok=True)


def remember(
    study: Path,
    *,
    source: Path,
    listed: Mapping[str, Any],
    stamps: Mapping[str, tuple[int, int] | None],
    exit_code: int,
) -> None:
    """Save the current state of all files after an analysis.

    Nothing is saved if a file has changed since it was read.

    Args:
        study: Folder of the study.
        source: Path of the data set as given by the user, resolved.
        listed: :func:`signatures` of the files and folders that decided the list of cases, taken before measuring.
        stamps: Size and modification time of each file of a case when it was read; None: not compared now, only at
            the next analysis.
        exit_code: Exit code of the analysis.
    """
    files: dict[str, Any] = {}
    for file, stamp in stamps.items():
        now = _signature(file)
        if stamp is not None and (now is None or tuple(now[:2]) != stamp):
            return
        files[file] = now
    if any(_signature(place) != known for place, known in listed.items()):
        return
    value = {
        "schema_version": _SCHEMA,
        "patchcore_version": package_version(),
        "source": str(source),
        "exit_code": exit_code,
        "listed": dict(listed),
        "files": files,
        "outputs": _outputs(study),
    }
    path = study / _FILE
    temporary = path.with_name(f".{_FILE}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        # Without this file, the next analysis is only slower.
        with suppress(OSError):
            temporary.unlink()


def answer(dataset: str, study: str, *, as_json: bool) -> tuple[str, int] | None:
    """Return the output of the last analysis and its exit code; None if anything may have changed."""
    folder = Path(study).absolute()
    try:
        value = json.loads((folder / _FILE).read_bytes())
        same = (
            value["schema_version"] == _SCHEMA
            and value["patchcore_version"] == package_version()
            and value["source"] == os.path.realpath(dataset)
            and all(_signature(path) == known for path, known in value["listed"].items())
            and all(_signature(path) == known for path, known in value["files"].items())
            and value["outputs"] == _outputs(folder)
        )
        if not same:
            return None
        text = (folder / ("summary.json" if as_json else "summary.txt")).read_text(encoding="utf-8")
        return text, int(value["exit_code"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _outputs(study: Path) -> dict[str, Any]:
    names = list(_OUTPUTS)
    with suppress(OSError):
        # The figure of the plan does not belong to the analysis: planning does not change an analysis.
        names += sorted(f"figures/{file.name}" for file in (study / "figures").iterdir() if file.stem != "plan")
    return {name: _signature(str(study / name)) for name in names}


def _signature(path: str) -> Any:
    """Return a JSON value that changes with the file or the entries of the folder; None if the path is missing."""
    place = Path(path)
    try:
        stat = place.stat()
        if not S_ISDIR(stat.st_mode):
            return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        names = sorted(item.name for item in place.iterdir())
    except OSError:
        return None
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
