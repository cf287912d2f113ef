"""The command line: exit codes, one-paragraph errors, and lazy imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from patchcore import cli
from patchcore.cli import COMMANDS, main
from patchcore.errors import CheckpointError, DataError


def in_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8").stdout


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("patchcore 0.")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: patchcore " + command in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nope"], ["train"], ["train", "study", "--nope"], ["train", "study", "--steps", "x"]]
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: patchcore" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("bad label", case_id="case_7", remedy="mend it"), 2, "error: case_7: bad label; mend it\n"),
        (CheckpointError("is missing"), 1, "error: is missing\n"),
        (OSError(28, "No space left on device", "/there"), 1, "error: /there: No space left on device\n"),
        (KeyboardInterrupt(), 130, None),
        (SystemExit(75), 75, ""),
    ],
)
def test_errors_are_one_paragraph(
    error: BaseException,
    code: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "build_app", lambda commands: fail)
    assert main(["models"]) == code
    if said is not None:
        assert capsys.readouterr().err == said


def test_no_study_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train", str(tmp_path / "none")], ["evaluate", str(tmp_path / "none")]):
        assert main(command) == 2
        assert "no such study" in capsys.readouterr().err


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list-settings"]) == 0
    shown = capsys.readouterr().out
    assert "optim.lr = 0.0004" in shown
    assert "train.batch_size = 2" in shown


def test_starting_a_training_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from patchcore.cli import main;"
        f"main(['train', {str(tmp_path)!r}]); main(['--version']);"
        "print(sorted({'torch', 'monai', 'textual', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    assert in_fresh_process(code).splitlines()[-1] == "[]"


def test_version_loads_no_command() -> None:
    code = "import sys; from patchcore.cli import main; main(['--version']); print('typer' in sys.modules)"
    assert in_fresh_process(code).splitlines()[-1] == "False"


def test_a_closed_output_keeps_the_exit_code(tmp_path: Path) -> None:
    for arguments, code in (("--version", 0), (f"runs show {tmp_path}", 2)):
        command = f"{sys.executable} -m patchcore {arguments} >&- 2>/dev/null"
        assert subprocess.run(command, shell=True, check=False).returncode == code


def test_folds_go_on_though_nobody_reads_the_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from patchcore import runs
    from patchcore.cli import train, viewer

    trained: list[tuple[Path, int]] = []
    printed: list[None] = []

    def supervise(run: Path, on_tick: Callable[[], None]) -> int:
        on_tick()
        trained.append((run, len(printed)))
        return 0

    class Silent:  # the handlers of signals are for a process of its own
        received = None

        def pass_on(self) -> None:
            pass

    class Stuck:
        def __init__(self, _: object) -> None:
            self.tick = lambda: printed.append(None)

        def close(self) -> bool:
            return False

    monkeypatch.setattr(runs, "supervise_foreground", supervise)
    monkeypatch.setattr(train, "StopSignal", Silent)
    monkeypatch.setattr(viewer, "Background", Stuck)
    monkeypatch.setattr(viewer, "PlainLines", lambda *_: Stuck(None))
    ended: list[int] = []
    monkeypatch.setattr(train.os, "_exit", ended.append)
    follower = train.Follower(foreground=True)
    follower.say("printed")
    assert [follower.follow(tmp_path / name) for name in "ab"] == [0, 0]
    follower.say("not printed: it would block")
    assert trained == [(tmp_path / "a", 1), (tmp_path / "b", 1)]
    with pytest.raises(typer.Exit):  # the real os._exit does not return
        follower.exit(3)
    assert ended == [3]
