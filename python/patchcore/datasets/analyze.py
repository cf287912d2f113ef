"""Analyze a data set into a study: find the cases, check and measure each case, summarise the cohort."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchcore.datasets import unchanged
from patchcore.datasets.checks import COHORT, check_decisions, cohort_findings, parse_accept, parse_spacing
from patchcore.datasets.decided import chosen_lesion_label, settings_of
from patchcore.datasets.examination import about_lesions, new_record, with_findings
from patchcore.datasets.fingerprint import build_fingerprint
from patchcore.datasets.labels import Settings
from patchcore.datasets.layouts import Layout, find_cases
from patchcore.datasets.layouts.indices import with_indices
from patchcore.datasets.lesion_table import lesions_csv, segments_csv
from patchcore.datasets.measures import CaseMeasures, MeasureLog
from patchcore.datasets.measuring import MeasuringPool
from patchcore.datasets.patients import group_patients
from patchcore.datasets.preload import load_readers
from patchcore.errors import DataError, StudyError
from patchcore.files import read_json, write_atomic, write_json_atomic
from patchcore.locks import check_locks
from patchcore.shares import Share
from patchcore.study.analysis import Analysis, AnalyzeProgress, Grouping
from patchcore.study.cases import CaseRecord
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.lesion_label import lesion_labels, merged_names
from patchcore.study.study import Study
from patchcore.types import PathLike
from patchcore.views.study_figures import draw_figures
from patchcore.views.summary import summary_json, summary_text
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.volume import DicomVolume

__all__ = ["analyze", "analyze_dataset"]

_SHARES = "measures-share-*.jsonl"


def analyze(
    dataset: PathLike,
    study: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    layout: str | None = None,
    lesion_label: int | str | None = None,
    connectivity: int | None = None,
    min_volume_mm3: float | None = None,
    patient_regex: str | None = None,
    exclude: Iterable[str] | None = None,
    spacing: Iterable[str] | None = None,
    accept: Iterable[str] | None = None,
    readers: str | None = None,
    fractional_threshold: float | None = None,
    interpolate_contours: bool | None = None,
    ignore_label: int | None = None,
    instances: bool | None = None,
    threads: int | None = None,
    share: str | None = None,
    progress: Callable[[AnalyzeProgress], None] | None = None,
) -> Study:
    """Measure a data set and write the results into a study; faulty cases are quarantined and never stop the others.

    The data set is only read. The study keeps the options given here. Later analyses use them until an option is given
    again. Unchanged files are not measured again.

    Args:
        dataset: Folder of the data set, or the CSV or JSON file that lists its cases.
        study: Folder of the study: new, empty, or made from this data set before.
        images: Folder of the images within the data set; None: recognised by its name.
        labels: Folder of the label maps within the data set; None: recognised by its name.
        layout: One of :data:`patchcore.datasets.layouts.LAYOUTS`; None: recognised automatically.
        lesion_label: Label of the lesions, by number or declared name; several, separated by commas (``2,3,4``), are
            one lesion class, called by the first. By default the only label, else the label with a name like a lesion.
        connectivity: 6, 18 or 26; 26 by default.
        min_volume_mm3: Components smaller than this are not lesions, in mm³; 0 by default.
        patient_regex: See :func:`patchcore.datasets.patients.group_patients`.
        exclude: Cases to exclude.
        spacing: ``CASE=A,B,C``, true mm along each stored axis, used instead of the header's spacing: see
            :func:`patchcore.datasets.checks.parse_spacing`.
        accept: ``CASE:CHECK``, geometry that is correct as it is: see :func:`patchcore.datasets.checks.parse_accept`.
        readers: What counts of a lesion that several readers drew in DICOM: ``majority`` (default), ``union`` or
            ``each``.
        fractional_threshold: Voxels of a fractional SEG count from this fraction on; 0.5 by default.
        interpolate_contours: Fill slices between drawn ones in an RTSTRUCT; not done by default.
        ignore_label: Label whose voxels count in no measure, no loss and no metric; by default the label that the data
            set calls ``ignore``. 0: no label is ignored.
        instances: Each stored label of a NIfTI file is one lesion, for label maps that number their lesions; they
            become lesions of label 1, and ``segments.csv`` keeps the stored labels.
        threads: Number of cases processed at the same time; all cores by default.
        share: ``2/8``: only measure every eighth case, from the second on, and leave the results for an analysis with
            the same options and without `share`. Shares may be measured at the same time, on several hosts.
        progress: Called in the calling thread when a case finishes a phase.

    Returns:
        The study, with cases, fingerprint and lesion table written.

    Raises:
        DataError: The data set does not exist, no layout is recognised, the lesion label is unclear, or a decision
            matches no case.
        StudyError: The study folder cannot be used.
        LockedError: Another analysis of this study is running.
    """
    return analyze_dataset(
        dataset,
        study,
        images=images,
        labels=labels,
        layout=layout,
        lesion_label=lesion_label,
        connectivity=connectivity,
        min_volume_mm3=min_volume_mm3,
        patient_regex=patient_regex,
        exclude=exclude,
        spacing=spacing,
        accept=accept,
        readers=readers,
        fractional_threshold=fractional_threshold,
        interpolate_contours=interpolate_contours,
        ignore_label=ignore_label,
        instances=instances,
        threads=threads,
        share=share,
        progress=progress,
    ).study


def analyze_dataset(
    dataset: PathLike,
    study: PathLike,
    *,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    layout: str | None = None,
    lesion_label: int | str | None = None,
    connectivity: int | None = None,
    min_volume_mm3: float | None = None,
    patient_regex: str | None = None,
    exclude: Iterable[str] | None = None,
    spacing: Iterable[str] | None = None,
    accept: Iterable[str] | None = None,
    readers: str | None = None,
    fractional_threshold: float | None = None,
    interpolate_contours: bool | None = None,
    ignore_label: int | None = None,
    instances: bool | None = None,
    threads: int | None = None,
    share: str | None = None,
    progress: Callable[[AnalyzeProgress], None] | None = None,
) -> Analysis:
    """Do the same as :func:`analyze`, and return all results, including the refused cases."""
    own = None if share is None else Share.parse(share)
    source, folder = Path(dataset).resolve(), Path(study).absolute()
    root = source.parent if source.is_file() else source
    _keep_apart(root, folder, listed=source.is_file())
    kept = Study(folder).decisions() if (folder / "study.json").exists() else {}
    given = {
        "images": None if images is None else str(images),
        "labels": None if labels is None else str(labels),
        "layout": layout,
        "lesion_label": lesion_label,
        "connectivity": connectivity,
        "min_volume_mm3": min_volume_mm3,
        "patient_regex": patient_regex,
        "exclude": None if exclude is None else sorted(set(exclude)),
        "spacing": _added_spacing(kept, spacing),
        "accept": _added_accept(kept, accept),
        "readers": readers,
        "fractional_threshold": fractional_threshold,
        "interpolate_contours": interpolate_contours,
        "ignore_label": ignore_label,
        "instances": instances,
    }
    decided = kept | {name: value for name, value in given.items() if value is not None}
    found = find_cases(
        source,
        images=decided.get("images"),
        labels=decided.get("labels"),
        layout=decided.get("layout"),
        segments=SegmentOptions.from_json(decided),
    )
    listed = unchanged.signatures(found.looked_at)
    lesions = lesion_labels(decided.get("lesion_label"), found.label_names)
    names = merged_names(found.label_names, lesions)
    settings = settings_of(decided, names, lesions, command=_command(source, folder))
    found = replace(found, label_names={k: v for k, v in names.items() if k != settings.ignore_label})
    if settings.instances and any(isinstance(case.label, DicomVolume) for case in found.cases):
        raise DataError(
            "--instances is for label maps in NIfTI files; DICOM segments are measured one by one anyway",
            path=root,
            remedy="remove --instances (once given, with --no-instances)",
        )
    case_ids = [case.case_id for case in found.cases]
    excluded = set(decided.get("exclude", ()))
    check_decisions(case_ids, spacing=settings.spacing, accept=settings.accept, exclude=excluded)
    grouping = group_patients(
        case_ids, regex=decided.get("patient_regex"), given=[case.patient for case in found.cases]
    )

    if not (folder / "study.json").exists():
        check_locks(folder)
    made = Study.create(folder, root)
    patients = dict(zip(case_ids, grouping.patients, strict=True))
    # Each share has its own log, so that processes on several hosts never write to the same file.
    with made.lock("analyze" if own is None else f"analyze-{own.name}"):
        unchanged.forget(made.path)
        part = found if own is None else replace(found, cases=tuple(own.of(found.cases)))
        placed = with_indices(part, made.path / "dicom", lesions=lesions)
        records = [
            new_record(case, patients[case.case_id], settings, excluded=case.case_id in excluded)
            for case in placed.cases
        ]
        load_readers(volume for record in records for volume in record.volumes)
        name = "measures.jsonl" if own is None else _SHARES.replace("*", own.name)
        shares = sorted(made.path.glob(_SHARES))
        log = MeasureLog(made.path / name, also=shares)
        pool = MeasuringPool(threads, log, settings, progress)
        try:
            measures = pool.measure_labels(records)
            label, reason = chosen_lesion_label(measures.values(), settings, lesions)
            if label is not None:
                measures = {
                    name: item.with_record(about_lesions(item.record, label, settings))
                    for name, item in measures.items()
                }
                measures |= pool.measure_images(measures.values(), label)
        finally:
            log.close()
        records = [measures[item.case_id].record if item.case_id in measures else item for item in records]
        if own is not None:
            return Analysis(
                study=made,
                command=settings.command,
                layout=placed,
                grouping=grouping,
                records=tuple(records),
                fingerprint=None,
                figures=(),
                reused_count=pool.reused_count,
                findings=tuple(found.findings),
            )
        among = cohort_findings(records, patients_known=grouping.known)
        records = [
            with_findings(record, among[record.case_id], settings) if record.case_id in among else record
            for record in records
        ]
        final = {record.case_id: record for record in records}
        log.compact(item for item in measures.values() if item.record.usable)
        for path in shares:
            path.unlink(missing_ok=True)
        good = [
            item.with_record(final[item.record.case_id])
            for item in measures.values()
            if final[item.record.case_id].accepted
        ]
        fingerprint = _fingerprint(good, records, found, grouping, settings, root.name, label, reason)
        before = _hash_of(made)
        fingerprint = _write(made, records, good, decided, settings.declared, fingerprint)
        figures: tuple[Path, ...] = ()
        if fingerprint is not None:
            figures = draw_figures(made, fingerprint, redraw=fingerprint.fingerprint_hash != before)
        analysis = Analysis(
            study=made,
            command=settings.command,
            layout=found,
            grouping=grouping,
            records=tuple(records),
            fingerprint=fingerprint,
            figures=figures,
            reused_count=pool.reused_count,
            findings=(*found.findings, *among.get(COHORT, ())),
        )
        _remember(analysis, source, listed)
    return analysis


def _added_spacing(kept: Mapping[str, Any], texts: Iterable[str] | None) -> dict[str, list[float]] | None:
    """Return the kept and the new spacings, new ones last; a spacing that is given again moves to the end."""
    if texts is None:
        return None
    spacing: dict[str, list[float]] = dict(kept.get("spacing", {}))
    for case, values in parse_spacing(texts).items():
        spacing.pop(case, None)
        spacing[case] = list(values)
    return spacing


def _added_accept(kept: Mapping[str, Any], texts: Iterable[str] | None) -> list[str] | None:
    return None if texts is None else sorted({*kept.get("accept", ()), *parse_accept(texts)})


def _command(source: Path, study: Path) -> str:
    return f"patchcore analyze {shlex.quote(str(source))} {shlex.quote(str(study))}"


def _keep_apart(root: Path, study: Path, *, listed: bool) -> None:
    """Refuse a study folder inside the data set; `listed`: a file lists the cases of the data set."""
    if not root.exists():
        raise DataError("no such data set", path=root, remedy="check the path")
    inner = study.resolve()
    # The folder of a case list may also hold other files; only the listed files belong to the data set.
    if inner == root or (inner.is_relative_to(root) and not listed):
        where = "is the data set's folder" if inner == root else "lies within the data set"
        raise StudyError(f"the study folder {where}", path=study, remedy="choose a study folder outside the data set")


def _fingerprint(
    good: Sequence[CaseMeasures],
    records: Sequence[CaseRecord],
    layout: Layout,
    grouping: Grouping,
    settings: Settings,
    dataset: str,
    lesion_label: int | None,
    reason: str,
) -> Fingerprint | None:
    if not good:
        return None
    notes = sum(item.check == "dicom-note" for record in records if record.accepted for item in record.findings)
    return build_fingerprint(
        good,
        layout=layout,
        dataset=dataset,
        grouping=grouping.description,
        connectivity=settings.connectivity,
        min_volume_mm3=settings.min_volume_mm3,
        lesion_label=lesion_label,
        lesion_label_reason=reason,
        label_names=settings.declared,
        quarantined_count=sum(item.status == "quarantined" for item in records),
        test_count=sum(item.status == "test" for item in records),
        held_count=sum(item.status == "held" for item in records),
        segments_note=f"{notes} notes on DICOM segments in cases.jsonl" if notes else "",
    )


def _remember(analysis: Analysis, source: Path, listed: Mapping[str, Any]) -> None:
    """Save the summary and the file stamps, so that the next analysis quickly detects that nothing has changed."""
    study = analysis.study
    write_atomic(study.path / "summary.txt", summary_text(analysis))
    write_json_atomic(study.path / "summary.json", summary_json(analysis))
    stamps: dict[str, tuple[int, int] | None] = {}
    for record in analysis.records:
        for volume, stamp in ((record.image, record.image_stamp), (record.label, record.label_stamp)):
            if volume is None:
                continue
            try:
                files = volume.files()
            except (OSError, DataError):
                files = [volume.path]
            known = None if stamp is None else (stamp.size, stamp.mtime_ns)
            for file in files:
                stamps[str(file)] = known if len(files) == 1 else None
    # Files of cases that could not be read may be corrected under the same names.
    stamps |= {str(file): None for case in analysis.layout.cases for file in case.others}
    code = 3 if analysis.quarantined or analysis.held else 0
    unchanged.remember(study.path, source=source, listed=listed, stamps=stamps, exit_code=code)


def _hash_of(study: Study) -> str | None:
    """Return the hash of the existing fingerprint; None if there is no fingerprint or it cannot be read."""
    try:
        return str(read_json(study.fingerprint_path)["fingerprint_hash"])
    except (OSError, DataError, KeyError, TypeError):
        return None


def _write(
    study: Study,
    records: Sequence[CaseRecord],
    measures: Sequence[CaseMeasures],
    decided: dict[str, Any],
    label_names: Mapping[int, str],
    fingerprint: Fingerprint | None,
) -> Fingerprint | None:
    """Write all results, the fingerprint last: if it exists, the other results exist too."""
    study.write_decisions(decided)
    study.write_cases(records)
    write_atomic(study.lesions_path, lesions_csv(measures, label_names=label_names))
    segments = study.path / "segments.csv"
    if any(item.segments for item in measures):
        write_atomic(segments, segments_csv(measures))
    else:
        segments.unlink(missing_ok=True)
    if fingerprint is None:
        study.fingerprint_path.unlink(missing_ok=True)
        return None
    return study.write_fingerprint(fingerprint)
