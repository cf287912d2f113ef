from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from patchcore.cli import dashboard as module
from patchcore.errors import MissingExtraError, PatchcoreError, StudyError


def test_a_folder_that_is_not_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study"):
        module.dashboard(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="not a study") as caught:
        module.dashboard(tmp_path)
    assert "patchcore analyze" in str(caught.value)
    (tmp_path / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="not JSON"):
        module.dashboard(tmp_path)
    with pytest.raises(StudyError, match="not a study"):
        module.dashboard(tmp_path / "study.json")


def test_a_missing_textual_names_the_extra(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "textual" else real(name))
    with pytest.raises(MissingExtraError, match=r"patchcore\[dashboard\]"):
        module.dashboard(study)


def test_without_a_terminal_it_says_what_does_without(study: Path) -> None:
    with pytest.raises(PatchcoreError, match="patchcore runs list"):
        module.dashboard(study)
