"""Defines the file paths of a run folder, and helpers that read and write its small files."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from patchcore.errors import RunError
from patchcore.files import read_whole
from patchcore.runs.events import plain
from patchcore.types import PathLike

__all__ = [
    "DEFAULT_TRAINER",
    "HEARTBEAT_S",
    "RUN_SCHEMA",
    "RunPaths",
    "append_line",
    "read_object",
    "write_quickly",
]

RUN_SCHEMA: Final = 1
HEARTBEAT_S: Final = 2.0
DEFAULT_TRAINER: Final = "patchcore.training.trainer"


class RunPaths:
    """The file paths of one run. The constructor creates and checks nothing.

    Example:
        >>> RunPaths("runs/a").events(2).as_posix()
        'runs/a/attempts/2/events.jsonl'
    """

    def __init__(self, run: PathLike) -> None:
        self.root = Path(run)
        self.run_json = self.root / "run.json"
        self.status = self.root / "status.json"
        self.supervisor_lock = self.root / "supervisor.lock"
        self.trainer_lock = self.root / "trainer.lock"
        self.audit = self.root / "audit.jsonl"
        self.attempts = self.root / "attempts"
        self.cases = self.root / "cases"
        self.checkpoints = self.root / "checkpoints"
        self.requests_new = self.root / "control" / "new"
        self.requests_done = self.root / "control" / "done"

    def attempt(self, number: int) -> Path:
        """Return the folder of an attempt."""
        return self.attempts / str(number)

    def start(self, number: int) -> Path:
        """Return the path of the file that says how an attempt was started."""
        return self.attempt(number) / "start.json"

    def events(self, number: int) -> Path:
        """Return the path of the trainer's events."""
        return self.attempt(number) / "events.jsonl"

    def system(self, number: int) -> Path:
        """Return the path of the samples of GPU, CPU and RAM."""
        return self.attempt(number) / "system.jsonl"

    def stdout(self, number: int) -> Path:
        """Return the path of the trainer's printed output."""
        return self.attempt(number) / "stdout.log"

    def exit(self, number: int) -> Path:
        """Return the path of the exit record of an attempt."""
        return self.attempt(number) / "exit.json"

    def newest_attempt(self) -> int | None:
        """Return the number of the newest attempt, or None if there is none."""
        try:
            names = [path.name for path in self.attempts.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return max((int(name) for name in names if name.isascii() and name.isdigit()), default=None)

    def require(self) -> dict[str, Any]:
        """Return the content of ``run.json``.

        Raises:
            RunError: The folder is not a run folder, or a newer patchcore wrote it.
        """
        record = read_object(self.run_json)
        if record is None:
            raise RunError("not a run folder (run.json is missing or damaged)", path=self.root)
        version = record.get("schema_version")
        if not isinstance(version, int) or version > RUN_SCHEMA:
            raise RunError(
                f"run.json has schema version {version}, but this patchcore reads versions up to {RUN_SCHEMA}",
                path=self.root,
                remedy="update patchcore",
            )
        return record


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a small file, or None if the file is missing or damaged."""
    try:
        value = json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_quickly(path: Path, value: Any) -> None:
    """Replace a small JSON file that is written often. The replacement is atomic, but it is not synced to disk.

    Raises:
        OSError: The file cannot be written; the old file stays.
    """
    # One temporary name per thread of a process: a killed writer leaves at most one file behind.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n"
        temporary.write_bytes(text.encode("utf-8", "replace"))
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line with one write. For files that are written rarely: each call opens the file again.

    Raises:
        OSError: The line cannot be written.
    """
    line = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, line.encode("utf-8", "replace") + b"\n")
    finally:
        os.close(handle)
