"""Analyze a data set into a study: find the cases, check and measure each, summarise the cohort."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore.data.casework import Settings, measure_image, measure_label, new_record
from patchcore.data.figure import draw_lesion_volumes
from patchcore.data.fingerprint import build_fingerprint, lesions_csv
from patchcore.data.layouts import Layout, find_cases, label_names
from patchcore.data.lesion_label import choose_lesion_label
from patchcore.data.measures import CaseMeasures, MeasureLog
from patchcore.data.patients import Grouping, group_patients
from patchcore.errors import DataError, StudyError
from patchcore.files import read_json, write_atomic
from patchcore.study.cases import CaseRecord
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.study import Study
from patchcore.types import PathLike

__all__ = ["Analysis", "AnalyzeProgress", "analyze", "analyze_dataset"]


@dataclass(frozen=True)
class AnalyzeProgress:
    """One case is done with one phase: ``"labels"`` (measuring) or ``"images"`` (reading, HU)."""

    phase: str
    done: int
    total: int
    record: CaseRecord


@dataclass(frozen=True)
class Analysis:
    """What an analysis found; `fingerprint` is None without accepted cases, `figure` where none was drawn."""

    study: Study
    layout: Layout
    grouping: Grouping
    records: tuple[CaseRecord, ...]
    fingerprint: Fingerprint | None
    figure: Path | None
    reused_count: int

    @property
    def quarantined(self) -> tuple[CaseRecord, ...]:
        """Cases that were found faulty."""
        return tuple(record for record in self.records if record.status == "quarantined")


def analyze(
    dataset: PathLike,
    study: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    lesion_label: int | None = None,
    connectivity: int | None = None,
    min_volume_mm3: float | None = None,
    patient_regex: str | None = None,
    exclude: Iterable[str] | None = None,
    threads: int | None = None,
    progress: Callable[[AnalyzeProgress], None] | None = None,
) -> Study:
    """Measure a data set into a study; faulty cases are quarantined and never stop the rest.

    The data set is only read. What was decided here is kept in the study, and holds at later analyses until
    decided otherwise. Unchanged files are not measured again.

    Args:
        dataset: Folder of the data set.
        study: Folder of the study: new, empty, or the one made from this data set before.
        images: Folder of the images within the data set; recognised where None.
        labels: Folder of the label maps, likewise.
        lesion_label: The lesions' label; by default the only one, else the one that is named like a lesion.
        connectivity: 6, 18 or 26; 26 by default.
        min_volume_mm3: Smaller components are no lesions; 0 by default.
        patient_regex: See :func:`patchcore.data.patients.group_patients`.
        exclude: Cases to leave out.
        threads: Cases worked on at once; all cores by default.
        progress: Called in the calling thread as each case finishes a phase.

    Returns:
        The study, with cases, fingerprint and lesion table written.

    Raises:
        DataError: No data set, no layout recognised, or the lesion label cannot be told.
        StudyError: The study folder cannot be used.
        LockedError: Another analysis of this study is at work.
    """
    return analyze_dataset(
        dataset,
        study,
        images=images,
        labels=labels,
        lesion_label=lesion_label,
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        patient_regex=patient_regex,
        exclude=exclude,
        threads=threads,
        progress=progress,
    ).study


def analyze_dataset(
    dataset: PathLike,
    study: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    lesion_label: int | None = None,
    connectivity: int | None = None,
    min_volume_mm3: float | None = None,
    patient_regex: str | None = None,
    exclude: Iterable[str] | None = None,
    threads: int | None = None,
    progress: Callable[[AnalyzeProgress], None] | None = None,
) -> Analysis:
    """Do as :func:`analyze` does, and return all that was found, refused cases included."""
    root, folder = Path(dataset).resolve(), Path(study).absolute()
    _keep_apart(root, folder)
    kept = Study(folder).decisions() if (folder / "study.json").exists() else {}
    given = {
        "images": None if images is None else str(images),
        "labels": None if labels is None else str(labels),
        "lesion_label": lesion_label,
        "connectivity": connectivity,
        "min_volume_mm3": min_volume_mm3,
        "patient_regex": patient_regex,
        "exclude": None if exclude is None else sorted(set(exclude)),
    }
    decided = kept | {name: value for name, value in given.items() if value is not None}
    settings = _settings(decided)
    layout = find_cases(root, images=decided.get("images"), labels=decided.get("labels"))
    case_ids = [case.case_id for case in layout.cases]
    excluded = set(decided.get("exclude", ()))
    if unknown := sorted(excluded.difference(case_ids)):
        raise DataError(f"--exclude names no case: {', '.join(unknown)}", path=root, remedy=f"a case is {case_ids[0]}")
    grouping = group_patients(case_ids, regex=decided.get("patient_regex"))

    made = Study.create(folder, root)
    with made.lock("analyze"):
        records = [
            new_record(case, patient, excluded=case.case_id in excluded)
            for case, patient in zip(layout.cases, grouping.patients, strict=True)
        ]
        log = MeasureLog(made.path / "measures.jsonl")
        try:
            names = label_names(root)
            pool = _Pool(threads, log, progress)
            measures = pool.measure_labels(records, settings)
            good = [item for item in measures.values() if item.record.accepted]
            label, reason = None, "no case was accepted"
            if good:
                counts: dict[int, int] = {}
                for item in good:
                    for present in item.record.labels:
                        counts[present] = counts.get(present, 0) + 1
                label, reason = choose_lesion_label(counts, names, wanted=decided.get("lesion_label"))
                measures |= pool.measure_images(good, label)
        finally:
            log.close()
        records = [measures[item.case_id].record if item.case_id in measures else item for item in records]
        good = [item for item in measures.values() if item.record.accepted]
        log.compact(good)
        fingerprint = None
        if good:
            fingerprint = build_fingerprint(
                good,
                layout=layout,
                dataset=root.name,
                grouping=grouping.description,
                connectivity=settings.connectivity,
                min_volume_mm3=settings.min_volume_mm3,
                lesion_label=label,
                lesion_label_reason=reason,
                label_names=names,
                quarantined_count=sum(item.status == "quarantined" for item in records),
            )
        before = _hash_of(made)
        fingerprint = _write(made, records, good, decided, fingerprint)
        figure = None
        if fingerprint is not None:
            figure = draw_lesion_volumes(made, fingerprint, anew=fingerprint.fingerprint_hash != before)
    return Analysis(made, layout, grouping, tuple(records), fingerprint, figure, pool.reused_count)


def _keep_apart(root: Path, study: Path) -> None:
    """Refuse a study that would be written into the data set."""
    if not root.exists():
        raise DataError("no such data set", path=root, remedy="check the path")
    inner = study.resolve()
    if inner.is_relative_to(root):
        where = "is the data set's" if inner == root else "lies within the data set"
        raise StudyError(f"the study folder {where}", path=study, remedy="name one outside it: a data set is only read")


def _settings(decided: dict[str, Any]) -> Settings:
    connectivity = decided.get("connectivity", 26)
    min_volume_mm3 = float(decided.get("min_volume_mm3", 0.0))
    if connectivity not in (6, 18, 26):
        raise DataError(f"connectivity {connectivity} does not exist", found=connectivity, remedy="use 6, 18 or 26")
    if not 0 <= min_volume_mm3 < float("inf"):
        raise DataError(f"min_volume_mm3 {min_volume_mm3:g} is no volume", remedy="use 0 or more")
    return Settings(connectivity, min_volume_mm3)


def _hash_of(study: Study) -> str | None:
    """Return the hash of the fingerprint that is there, None where none is, or none that can be read."""
    try:
        return str(read_json(study.fingerprint_path)["fingerprint_hash"])
    except (OSError, DataError, KeyError, TypeError):
        return None


def _write(
    study: Study,
    records: Sequence[CaseRecord],
    measures: Sequence[CaseMeasures],
    decided: dict[str, Any],
    fingerprint: Fingerprint | None,
) -> Fingerprint | None:
    """Write all results, the fingerprint last: where it is, the rest is."""
    study.write_decisions(decided)
    study.write_cases(records)
    write_atomic(study.lesions_path, lesions_csv(measures))
    if fingerprint is None:
        study.fingerprint_path.unlink(missing_ok=True)
        return None
    return study.write_fingerprint(fingerprint)


class _Pool:
    """Works on cases in threads, keeps each in the log as it finishes, and tells the progress."""

    def __init__(
        self, threads: int | None, log: MeasureLog, progress: Callable[[AnalyzeProgress], None] | None
    ) -> None:
        if threads is not None and threads < 1:
            raise DataError(f"{threads} threads cannot work", found=threads, remedy="use 1 or more")
        self.threads = threads or os.cpu_count() or 1
        self.log = log
        self.progress = progress
        self.reused_count = 0

    def measure_labels(self, records: Sequence[CaseRecord], settings: Settings) -> dict[str, CaseMeasures]:
        """Return the measures of each case that has no problem yet; what the log holds is not done again."""
        done: dict[str, CaseMeasures] = {}
        rest = []
        for record in records:
            if not record.accepted:
                continue
            known = self.log.find(record, connectivity=settings.connectivity, min_volume_mm3=settings.min_volume_mm3)
            if known is None:
                rest.append(record)
            else:
                done[record.case_id] = known
                self.reused_count += 1
        return done | self._run("labels", [(record, settings) for record in rest], measure_label)

    def measure_images(self, measures: Sequence[CaseMeasures], lesion_label: int) -> dict[str, CaseMeasures]:
        """Return the measures completed by HU of those cases whose image was not looked at for this label."""
        rest = [
            (item, lesion_label)
            for item in measures
            if item.record.image is not None and (item.hu is None or item.hu.label != lesion_label)
        ]
        return self._run("images", rest, measure_image)

    def _run(
        self, phase: str, tasks: Sequence[tuple[Any, Any]], function: Callable[[Any, Any], CaseMeasures]
    ) -> dict[str, CaseMeasures]:
        results: dict[str, CaseMeasures] = {}
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix="analyze")
        try:
            futures = [executor.submit(function, *task) for task in tasks]
            for future in as_completed(futures):
                item = future.result()
                results[item.record.case_id] = item
                if item.record.accepted:
                    self.log.append(item)
                if self.progress is not None:
                    self.progress(AnalyzeProgress(phase, len(results), len(tasks), item.record))
        finally:
            # After Ctrl-C the cases at work are waited for, those not begun are dropped.
            executor.shutdown(wait=True, cancel_futures=True)
        return results
