"""Selects the cases to evaluate a run on, and reports whether the run used them for training or for selection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from patchcore.config.run import RunConfig
from patchcore.errors import DataError, RunError
from patchcore.runs import RunState, list_runs
from patchcore.runs.setup import RunSplit
from patchcore.study import CaseRecord, Study, patients_on_both_sides

__all__ = ["chosen_cases", "held_out_cases", "newest_finished"]


def newest_finished(study: Study) -> Path:
    """Return the newest finished training run of a study.

    Raises:
        RunError: The study has no finished training run.
    """
    for summary in list_runs(study.path):
        if summary.state.state is RunState.FINISHED and summary.kind in ("train", "fine-tune"):
            return summary.path
    raise RunError(
        "the study has no finished training", path=study.path, remedy="run patchcore train STUDY, or give a run"
    )


def held_out_cases(study: Study, split: RunSplit) -> list[CaseRecord]:
    """Return the held-out test cases.

    Raises:
        DataError: There are none, a patient has both training and test cases, or the run has used a held-out case or
            another case of the same patient.
    """
    records, cases = study.held_out(), study.cases()
    known = patients_on_both_sides(cases)
    if known:
        raise DataError(
            f"{', '.join(known[:10])} {'has' if len(known) == 1 else 'have'} both training and test cases",
            path=study.cases_path,
            remedy="mark all cases of a patient for testing, or none of them, and run patchcore analyze again",
        )
    if not records:
        raise DataError(
            "the data set has no held-out test cases",
            path=study.cases_path,
            remedy="mark cases with split=test in a manifest, or evaluate the validation fold",
        )
    seen = {*split.train, *split.validation}
    patients = {record.patient for record in cases if record.case_id in seen}
    met = [record.case_id for record in records if record.case_id in seen or record.patient in patients]
    if met:
        raise DataError(
            f"the run used {len(met)} of the {len(records)} held-out cases, or other cases of the same patients, for "
            f"training or selection: {', '.join(met[:10])}",
            path=study.cases_path,
            remedy="train again, or give a later run: these cases were held out after this run had started",
        )
    return records


def _role(case_ids: Iterable[str], split: RunSplit) -> str:
    roles = {
        **dict.fromkeys(split.train, "used for training"),
        **dict.fromkeys(split.validation, "used for selection"),
    }
    found = {roles.get(case_id, "new to the run") for case_id in case_ids}
    worst = next(role for role in ("used for training", "used for selection", "new to the run") if role in found)
    return worst if len(found) == 1 else f"some {worst}"


def chosen_cases(
    study: Study, split: RunSplit, config: RunConfig, fold: int | None, case_ids: Sequence[str] | None
) -> tuple[list[CaseRecord], str]:
    """Return the cases to evaluate, in case_id order, and their role in the run."""
    accepted = {record.case_id: record for record in study.accepted()}
    if case_ids:
        unknown = [case_id for case_id in case_ids if case_id not in accepted]
        if unknown:
            raise DataError(
                f"not among the accepted cases: {', '.join(unknown)}",
                path=study.cases_path,
                remedy="choose cases that cases.jsonl lists as accepted",
            )
        return [accepted[case_id] for case_id in sorted(set(case_ids))], f"named cases, {_role(case_ids, split)}"
    train = config.train
    chosen = train.fold if fold is None else fold
    if not 0 <= chosen < train.folds:
        legal = f"0 to {train.folds - 1}"
        raise DataError(f"fold {chosen} does not exist", expected=legal, remedy=f"choose a fold from {legal}")
    if chosen == train.fold:
        # Use the recorded validation cases of the run: the study may have changed since.
        ids = [case_id for case_id in accepted if case_id in split.validation]
    else:
        ids = study.folds(train.folds, config.seed)[chosen]
    if not ids:
        raise DataError(
            f"no case of fold {chosen} is accepted any more",
            path=study.cases_path,
            remedy="give cases with --cases, or choose another fold",
        )
    return [accepted[case_id] for case_id in sorted(ids)], _role(ids, split)
