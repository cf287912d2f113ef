"""Measure the cases of a data set in threads; each finished case is written to the log immediately."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from patchcore.datasets.checks.decisions import given_spacing
from patchcore.datasets.examination import examine_image, examine_label, with_findings
from patchcore.datasets.labels import Settings
from patchcore.datasets.measures import CaseMeasures, MeasureLog
from patchcore.interrupts import interrupts_wait
from patchcore.study.analysis import AnalyzeProgress
from patchcore.study.cases import CaseRecord
from patchcore.threads import checked_threads, for_each
from patchcore.views.study_figures import warm_up

__all__ = ["MeasuringPool"]


class MeasuringPool:
    """Processes cases in threads, writes each finished case to the log, and reports the progress."""

    def __init__(
        self,
        threads: int | None,
        log: MeasureLog,
        settings: Settings,
        progress: Callable[[AnalyzeProgress], None] | None,
    ) -> None:
        self.threads = checked_threads(threads)
        self.log = log
        self.settings = settings
        self.progress = progress
        self.reused_count = 0

    def measure_labels(self, records: Sequence[CaseRecord]) -> dict[str, CaseMeasures]:
        """Return the measures of each case without a problem so far; cases in the log are not measured again."""
        done: dict[str, CaseMeasures] = {}
        rest = []
        for record in records:
            if not record.usable:
                continue
            known = self.log.find(
                record,
                connectivity=self.settings.connectivity,
                min_volume_mm3=self.settings.min_volume_mm3,
                given_spacing=given_spacing(record.case_id, self.settings.spacing),
                label_rule=self.settings.label_rule,
                declared=tuple(self.settings.declared),
            )
            if known is not None:
                # Decisions may have changed since then.
                again = known.with_record(with_findings(known.record, [], self.settings))
                if again.record.usable:
                    done[record.case_id] = again
                    self.reused_count += 1
                    continue
            rest.append(record)
        # Large files first: the last case to finish is then small, and no core waits long for it.
        rest.sort(key=lambda record: -(record.label_stamp.size if record.label_stamp else 0))
        return done | self._run("labels", [(record, self.settings) for record in rest], examine_label)

    def measure_images(self, measures: Iterable[CaseMeasures], lesion_label: int) -> dict[str, CaseMeasures]:
        """Return measures with HU, for the cases that have an image but no HU for this label yet."""
        rest = [
            (item, lesion_label, self.settings)
            for item in measures
            if item.record.image is not None
            and item.record.usable
            and (item.hu is None or item.hu.label != lesion_label)
        ]
        return self._run("images", rest, examine_image)

    def _run(
        self, phase: str, tasks: Sequence[tuple[Any, ...]], function: Callable[..., CaseMeasures]
    ) -> dict[str, CaseMeasures]:
        results: dict[str, CaseMeasures] = {}

        def done(_: int, item: CaseMeasures) -> None:
            results[item.record.case_id] = item
            if item.record.usable:
                self.log.append(item)
            if self.progress is not None:
                self.progress(AnalyzeProgress(phase, len(results), len(tasks), item.record))

        def load_figures() -> None:
            # Figures are drawn at the end: load their library while cases are processed.
            if len(tasks) > self.threads:
                with interrupts_wait():
                    warm_up()

        for_each(
            lambda task: function(*task),
            tasks,
            threads=self.threads,
            name="analyze",
            done=done,
            meanwhile=load_figures,
        )
        return results
