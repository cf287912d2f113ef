"""Where things lie in a run folder, and the small reads and writes that every part of it shares."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from patchcore.errors import RunError
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
    """The files of one run. Nothing is created or checked on construction.

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
        """Folder of an attempt."""
        return self.attempts / str(number)

    def start(self, number: int) -> Path:
        """How an attempt was started."""
        return self.attempt(number) / "start.json"

    def events(self, number: int) -> Path:
        """What the trainer told."""
        return self.attempt(number) / "events.jsonl"

    def system(self, number: int) -> Path:
        """Samples of GPU, CPU and RAM."""
        return self.attempt(number) / "system.jsonl"

    def stdout(self, number: int) -> Path:
        """What the trainer printed."""
        return self.attempt(number) / "stdout.log"

    def exit(self, number: int) -> Path:
        """How an attempt ended."""
        return self.attempt(number) / "exit.json"

    def newest_attempt(self) -> int | None:
        """Number of the newest attempt, or None."""
        try:
            names = [path.name for path in self.attempts.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return max((int(name) for name in names if name.isascii() and name.isdigit()), default=None)

    def require(self) -> dict[str, Any]:
        """Return ``run.json``.

        Raises:
            RunError: This is no run folder, or a newer patchcore wrote it.
        """
        record = read_object(self.run_json)
        if record is None:
            raise RunError("no run folder (run.json is missing or damaged)", path=self.root)
        version = record.get("schema_version")
        if not isinstance(version, int) or version > RUN_SCHEMA:
            raise RunError(
                f"run.json has schema version {version}, this patchcore reads up to {RUN_SCHEMA}",
                path=self.root,
                remedy="update patchcore",
            )
        return record


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a small file, or None where there is none (missing or damaged)."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_quickly(path: Path, value: Any) -> None:
    """Replace a small JSON file that is rewritten all the time: whole or not at all, not synced to disk.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    # One name a writer, so that a killed one leaves at most one file behind, and the next start overwrites
    # it.
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
    """Append one JSON line by one write. For files with one slow writer, opened anew each time.

    Raises:
        OSError: It cannot be written.
    """
    line = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, line.encode("utf-8", "replace") + b"\n")
    finally:
        os.close(handle)
