from __future__ import annotations

import sys
from pathlib import Path

import pytest

from patchcore.errors import RunError
from patchcore.tui.launch import launch_training


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_run_named_last_is_returned_and_arguments_are_passed(study: Path) -> None:
    code = "import sys; print(sys.argv[1:], file=open('seen.txt', 'w')); print('hello'); print('/a/b/run-1')"
    code = code.replace("'seen.txt'", repr(str(study / "seen.txt")))
    run_id = launch_training(study, ["train.steps=3"], slug="mine", command=command(code))
    assert run_id == "run-1"
    expected = ["train", str(study), "--detach", "--name", "mine", "--set", "train.steps=3"]
    assert (study / "seen.txt").read_text(encoding="utf-8").strip() == str(expected)


def test_what_the_command_complains_of_is_reported(study: Path) -> None:
    with pytest.raises(RunError, match=r"train\.fold 9 must be below 5"):
        launch_training(
            study,
            command=command("import sys; print('train.fold 9 must be below 5', file=sys.stderr); sys.exit(2)"),
        )


@pytest.mark.parametrize(("code", "message"), [("raise SystemExit(1)", "exit code 1"), ("", "did not print a run")])
def test_silence_is_an_error(study: Path, code: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        launch_training(study, command=command(code))


def test_a_command_that_hangs_is_given_up(study: Path) -> None:
    with pytest.raises(RunError, match=r"did not answer within 0\.5 s"):
        launch_training(study, command=command("import time; time.sleep(60)"), timeout_s=0.5)


def test_a_child_that_keeps_the_output_open_is_not_waited_for(study: Path) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import subprocess, sys; subprocess.Popen({sleeper}); print('run-2')"
    # The child keeps the output open for 60 s. If it were waited for, the limit of 30 s would be exceeded.
    assert launch_training(study, command=command(code), timeout_s=30.0) == "run-2"


def test_a_module_in_the_working_folder_is_not_imported(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "csv.py").write_text("raise SystemExit('the wrong csv was imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with pytest.raises(RunError, match="the study has no plan yet"):
        launch_training(study)
