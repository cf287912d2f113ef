"""Selects the cases to evaluate a run on, and refuses what a score on them could not claim."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchcore.config.patches import patch_triple, size_text
from patchcore.config.run import RunConfig
from patchcore.errors import ConfigError, DataError, RunError
from patchcore.runs import RunState, list_runs, resolve_run
from patchcore.runs.seen import Role, RunRecord
from patchcore.runs.setup import RunSplit, read_setup
from patchcore.study import CaseRecord, Study, patients_on_both_sides
from patchcore.types import PathLike

__all__ = ["ChosenCases", "chosen_cases", "held_out_cases", "newest_finished", "sizes_of_run"]


@dataclass(frozen=True)
class ChosenCases:
    """Cases to evaluate.

    Attributes:
        records: The cases, in case_id order.
        roles: What the run and its ancestors have done with each of them.
        name: Suffix of the report's folder, so that reports on other cases are kept; empty for the run's own fold.
        named: Whether the user named the cases.
    """

    records: tuple[CaseRecord, ...]
    roles: tuple[Role, ...]
    name: str = ""
    named: bool = False


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


def held_out_cases(study: Study, seen: RunRecord) -> ChosenCases:
    """Return the held-out test cases.

    Raises:
        DataError: There are none, a patient has both training and test cases, or the run or one of its ancestors has
            used a held-out case, or another case of the same patient.
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
    roles = [seen.role(record, study) for record in records]
    met = [(record, role) for record, role in zip(records, roles, strict=True) if role.is_seen]
    if met:
        listed = ", ".join(f"{record.case_id} ({role})" for record, role in met[:10])
        raise DataError(
            f"the run or an ancestor has used {len(met)} of the {len(records)} held-out cases, or other cases of the "
            f"same patients: {listed}",
            path=study.cases_path,
            remedy="train again without them, and from weights that have not seen them; or name the cases with "
            "--cases: they are then labelled as used",
        )
    return ChosenCases(tuple(records), tuple(roles), name="held-out")


def chosen_cases(
    study: Study, split: RunSplit, config: RunConfig, seen: RunRecord, fold: int | None, case_ids: Sequence[str] | None
) -> ChosenCases:
    """Return the cases to evaluate: the named ones, those of a fold, or all cases of another study than the run's.

    Raises:
        ConfigError: A fold is named for a study that the run was not trained on.
        DataError: A case or fold does not exist.
    """
    usable = {record.case_id: record for record in study.cases() if record.usable}

    def chosen(ids: Sequence[str], name: str, *, named: bool = False) -> ChosenCases:
        records = tuple(usable[case_id] for case_id in sorted(set(ids)))
        return ChosenCases(records, tuple(seen.role(record, study) for record in records), name, named)

    if case_ids:
        unknown = [case_id for case_id in case_ids if case_id not in usable]
        if unknown:
            raise DataError(
                f"not among the accepted and the test cases: {', '.join(unknown)}",
                path=study.cases_path,
                remedy="choose cases that cases.jsonl lists as accepted or test",
            )
        key = hashlib.sha256("\n".join(sorted(set(case_ids))).encode()).hexdigest()[:8]
        return chosen(case_ids, f"cases-{key}", named=True)
    accepted = [case_id for case_id, record in usable.items() if record.accepted]
    if study.study_id != seen.study_id:
        if fold is not None:
            raise ConfigError(
                "--fold names a fold of the run's own study, not of another one",
                remedy="leave out --fold to evaluate all cases of this study, or name cases with --cases",
            )
        if not accepted:
            raise DataError(
                "no case of this study is accepted; it has only test cases or cases that cannot be used",
                path=study.cases_path,
                remedy="evaluate the test cases with --held-out, or name cases with --cases",
            )
        return chosen(accepted, "external")
    train = config.train
    number = train.fold if fold is None else fold
    if not 0 <= number < train.folds:
        legal = f"0 to {train.folds - 1}"
        raise DataError(f"fold {number} does not exist", expected=legal, remedy=f"choose a fold from {legal}")
    if number == train.fold:
        # Use the recorded validation cases of the run: the study may have changed since.
        ids = [case_id for case_id in accepted if case_id in split.validation]
    else:
        ids = study.folds(train.folds, train.fold_seed)[number]
    if not ids:
        raise DataError(
            f"no case of fold {number} is accepted any more",
            path=study.cases_path,
            remedy="give cases with --cases, or choose another fold",
        )
    return chosen(ids, "" if number == train.fold else f"fold{number}")


def sizes_of_run(study: Study | PathLike, run: str | PathLike | None = None) -> tuple[str, ...]:
    """Return the patch sizes of a flexible network, each as a text for the parameter `patch_size` of :func:`evaluate`.

    Args:
        study: The study.
        run: Folder or id of the run; default: the newest finished run.

    Raises:
        RunError: The run does not exist, or no run has finished.
        ConfigError: It has one patch size only.
    """
    study = study if isinstance(study, Study) else Study(study)
    path = newest_finished(study) if run is None else resolve_run(study.path, str(run))
    sizes = read_setup(path).config.model.patch_sizes
    if not sizes:
        raise ConfigError(
            "this network has one patch size only, so there is no choice", path=path,
            remedy="leave --patch-size out; networks of several sizes are trained with model.patch_sizes",
        )  # fmt: skip
    return tuple(size_text(patch_triple(size)) for size in sizes)
