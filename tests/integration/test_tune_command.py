"""``patchcore tune`` and runs side by side, through the real commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import patchcore_here
from patchcore.config.postprocess import POSTPROCESS_FILE, Gain, read_postprocess
from patchcore.errors import ConfigError, CorruptFileError, DataError, StudyError
from patchcore.evaluation import tune as tuning
from patchcore.evaluation.choose import THRESHOLDS, Choice, Rules
from patchcore.evaluation.evaluate import evaluate
from patchcore.evaluation.tune import tune
from patchcore.study import Study

MakeRun = Callable[..., Path]
RunAttempt = Callable[..., int]


@pytest.fixture
def trained(make_run: MakeRun, run_attempt: RunAttempt) -> Path:
    run = make_run("train.steps=100", "train.steps_per_epoch=100", "optim.lr=3e-3", "model.dropout=0")
    assert run_attempt(run) == 0
    return run


def test_tune_writes_what_predict_and_evaluate_use(trained: Path, tiny_study: Path) -> None:
    shown = patchcore_here("tune", trained)
    assert shown.returncode == 0, shown.stderr
    assert "each patient with the choice of the others" in shown.stdout
    assert "2 patients the interval is unreliable" in shown.stdout
    chosen = read_postprocess(trained / POSTPROCESS_FILE)
    assert len(chosen.cases) == 2
    assert chosen.gain is not None
    assert f"gain {chosen.gain.gain:.3f}" in shown.stdout
    assert chosen.threshold in THRESHOLDS
    assert not (trained / "tune.unfinished.jsonl").exists()
    # A choice that acts, so that its use can be seen.
    acts = chosen.model_copy(update={"kept": True, "min_volume_mm3": 1e6})
    (trained / POSTPROCESS_FILE).write_text(acts.model_dump_json())
    before = evaluate(tiny_study, trained, post=False)
    after = evaluate(tiny_study, trained)
    assert before.lesions.found > 0
    assert (after.lesions.found, after.lesions.predicted) == (0, 0)
    assert not any("post-processing" in note for note in before.notes)
    assert any("lesions of at least 1e+06 mm³" in note for note in after.notes)
    assert any("it was chosen on 2 of these cases" in note for note in after.notes)
    # The FROC is that of the network.
    assert before.froc == after.froc
    assert before.froc.lesions == before.lesions.lesions
    report = Study(tiny_study).reports_dir / trained.name
    assert (report / "lesions.png").exists()
    assert (report / "contours.png").exists()

    beside = patchcore_here("evaluate", tiny_study, trained, trained.name)
    assert beside.returncode == 0, beside.stderr
    assert "mean sensitivity (FROC)" in beside.stdout
    with (report / "side-by-side.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["", trained.name, trained.name]
    assert len({row[0] for row in rows}) == len(rows) > 8
    both = patchcore_here("evaluate", tiny_study, trained, trained.name, "--json", "--no-postprocess")
    assert [one["run_id"] for one in json.loads(both.stdout)] == [trained.name] * 2


def test_an_interrupted_tuning_continues(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_case_id: str, number: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(trained, on_case=stop)
    measured: list[str] = []
    real = tuning._measure

    def measure(predictor: object, record: object, organ: object) -> object:
        measured.append(record.case_id)  # type: ignore[attr-defined]
        return real(predictor, record, organ)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "_measure", measure)
    done = tune(trained)
    assert len(measured) == 1
    assert len(done.settings.cases) == 2
    fresh = tune(trained)
    assert (fresh.settings, fresh.before, fresh.nested) == (done.settings, done.before, done.nested)


def test_what_cannot_be_tuned_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is not an objective"):
        tune(trained, objective="accuracy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="may_lose is 2"):
        tune(trained, may_lose=2)
    with pytest.raises(ConfigError, match="does not learn an organ of label 7"):
        tune(trained, organ_label=7)
    with pytest.raises(StudyError, match="not a run folder"):
        tune(tmp_path)

    def broken(*_: object) -> None:
        raise CorruptFileError("the gzip data ends early")

    monkeypatch.setattr(tuning, "_measure", broken)
    with pytest.raises(DataError, match="none of 2 validation cases could be used; first error"):
        tune(trained)


def test_what_is_written_is_what_was_chosen(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Rules] = []
    gain = Gain(before=0.5, after=0.7, gain=0.2, low=0.1, high=0.3, patients=9)

    def chosen(_cases: object, rules: Rules) -> tuple[Choice, Gain]:
        given.append(rules)
        return Choice(threshold=2, peak=0.9), gain

    monkeypatch.setattr(tuning, "choose", chosen)
    real = tuning._measure

    def measure(predictor: object, record: object, organ: object) -> object:
        if not failed:
            failed.append(record.case_id)  # type: ignore[attr-defined]
            raise CorruptFileError("the gzip data ends early")
        return real(predictor, record, organ)  # type: ignore[arg-type]

    failed: list[str] = []
    monkeypatch.setattr(tuning, "_measure", measure)
    done = tune(trained, objective="dsc")
    assert given[0].has_thresholds
    assert [case_id for case_id, _ in done.failed] == failed
    written = read_postprocess(trained / POSTPROCESS_FILE)
    assert written == done.settings
    assert (written.threshold, written.min_peak, written.gain) == (THRESHOLDS[2], 0.9, gain)
    assert written.kept
    tune(trained)
    assert not given[1].has_thresholds
