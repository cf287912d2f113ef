"""Which cases a run is evaluated on, and what part they had in it: training, selection, or none."""

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
    """Return the newest training of a study that has finished.

    Raises:
        RunError: There is none.
    """
    for summary in list_runs(study.path):
        if summary.state.state is RunState.FINISHED and summary.kind in ("train", "fine-tune"):
            return summary.path
    raise RunError(
        "the study has no finished training", path=study.path, remedy="train with patchcore train STUDY, or name a run"
    )


def held_out_cases(study: Study, split: RunSplit) -> list[CaseRecord]:
    """Return the cases kept for testing, if neither they nor their patients have had a part in the run."""
    records, cases = study.held_out(), study.cases()
    known = patients_on_both_sides(cases)
    if known:
        raise DataError(
            f"{', '.join(known[:10])} {'has' if len(known) == 1 else 'have'} cases to train on and to test",
            path=study.cases_path,
            remedy="mark all cases of a patient for testing, or none, and analyze again",
        )
    if not records:
        raise DataError(
            "the data set keeps no case for testing",
            path=study.cases_path,
            remedy="mark some with split=test in a manifest, or evaluate the validation fold",
        )
    seen = {*split.train, *split.validation}
    patients = {record.patient for record in cases if record.case_id in seen}
    met = [record.case_id for record in records if record.case_id in seen or record.patient in patients]
    if met:
        raise DataError(
            f"the run was trained or chosen by {len(met)} of the {len(records)} held-out cases, or others of the same "
            f"patients: {', '.join(met[:10])}",
            path=study.cases_path,
            remedy="they were kept for testing after it had begun: train anew, or name a later run",
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
    """Return the cases to evaluate, in case_id order, and what they were to the run."""
    accepted = {record.case_id: record for record in study.accepted()}
    if case_ids:
        unknown = [case_id for case_id in case_ids if case_id not in accepted]
        if unknown:
            raise DataError(
                f"no accepted case {', '.join(unknown)}", path=study.cases_path, remedy="cases.jsonl lists them"
            )
        return [accepted[case_id] for case_id in sorted(set(case_ids))], f"named cases, {_role(case_ids, split)}"
    train = config.train
    chosen = train.fold if fold is None else fold
    if not 0 <= chosen < train.folds:
        raise DataError(f"fold {chosen}", expected=f"0 to {train.folds - 1}", remedy=f"legal: 0 to {train.folds - 1}")
    if chosen == train.fold:
        # What the run has validated on counts, whatever came to the study since.
        ids = [case_id for case_id in accepted if case_id in split.validation]
    else:
        ids = study.folds(train.folds, config.seed)[chosen]
    if not ids:
        raise DataError(
            f"none of the cases of fold {chosen} is accepted any more",
            path=study.cases_path,
            remedy="name cases with --cases, or another fold",
        )
    return [accepted[case_id] for case_id in sorted(ids)], _role(ids, split)
