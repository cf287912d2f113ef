"""Validates during a training: selects the cases, records the results and keeps the best checkpoint.

A *whole* validation covers all cases of the fold. Only whole validations choose the best checkpoint and count towards
the patience. If a subset is configured or follows from a time limit, the validations in between use this subset. The
subset stays the same during the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from patchcore.config.patches import size_text
from patchcore.inference.sliding_window import predict_volume
from patchcore.models.unetr import at_each_size
from patchcore.runs import Verb
from patchcore.runs.events import ON_REQUEST, VAL_SELECTION, val_dsc_patch
from patchcore.store.prepare import PreparedCase
from patchcore.training.control import Control, Interrupted
from patchcore.training.preview import Previews
from patchcore.training.progress import Best, Progress, case_set_id
from patchcore.training.silence import Writer
from patchcore.training.state import Training
from patchcore.training.validate import ValidationResult, validate_cases

__all__ = ["spread", "validate"]


def spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` of `count` indices, evenly spread; all indices if `wanted` is 0 or at least `count`.

    Example:
        >>> spread(10, 3)
        [0, 3, 6]
    """
    if not wanted or wanted >= count:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def validate(
    training: Training, progress: Progress, writer: Writer, control: Control, *, whole: bool, counts: bool
) -> None:
    """Validate, record the results, and keep the best checkpoint.

    Args:
        training: The training.
        progress: Updated by this function.
        writer: Records the results.
        control: Receives requests during the validation.
        whole: Whether all cases must be validated.
        counts: Whether the validation is scheduled. A validation on request is recorded and changes nothing else:
            neither the best checkpoint nor patience nor schedule, so that looking at a run does not change its result.

    Raises:
        Interrupted: A stop or pause was requested during the validation.
    """
    config, ranks, step = training.config.validation, training.ranks, progress.step
    epoch = max(0, step - 1) // training.steps_per_epoch
    cases, validation_id = training.validation, f"{step:07d}"
    if config.max_minutes and not progress.subset:
        (progress.subset,) = ranks.agree(_affordable(training, control) if ranks.first else 0)
    limits = [limit for limit in (config.max_cases, progress.subset) if limit]
    subset = spread(len(cases), min(limits, default=0))
    number = progress.validations + counts
    whole = whole or len(subset) == len(cases) or (counts and number % config.whole_every == 0)
    indices = list(range(len(cases))) if whole else subset

    def look() -> None:
        if ranks.is_called_off(validation_id):
            raise Interrupted
        try:
            control.look_or_leave()
        except Interrupted:
            ranks.call_off(validation_id)
            raise

    def record_case(record: dict[str, Any]) -> None:
        writer.case(validation_id, record, step=step, epoch=epoch)

    count = config.previews
    fixed = {cases[subset[index]].case_id for index in spread(len(subset), (count + 1) // 2)} if count else set()
    previews = Previews(training.run / "preview", validation_id, fixed, math.ceil(count // 2 / ranks.world))
    records: list[dict[str, Any]] = []
    interrupted = False
    network = training.evaluated
    # A flexible network is validated at each of its sizes, and first at the plan's: that is what a case's record shows.
    at = at_each_size(network, training.target.patch_size)
    sizes, views = list(at), list(at.values()) or [network]
    results = [ValidationResult.empty(training.target) for _ in views]
    began = time.monotonic()
    try:
        for number, view in enumerate(views):
            results[number] = validate_cases(
                view,
                cases,
                training.target,
                training.placement,
                indices=indices[ranks.rank :: ranks.world],
                overlap=config.overlap,
                mirror=config.mirror,
                look=look,
                on_case=None if number else record_case if ranks.first else records.append,
                previews=previews if config.previews and not number else None,
            )
        gathered = ranks.collect({"cases": [one.to_json() for one in results], "records": records}, look)
    except Interrupted:
        interrupted, gathered = True, None
    # All ranks stop together: a rank that has finished its share learns here that another rank was interrupted.
    (leaving,) = ranks.agree(interrupted)
    if leaving:
        raise Interrupted
    progress.case_s = (time.monotonic() - began) / max(1, len(indices))
    for other in (gathered or [])[1:]:
        for one, found in zip(results, other["cases"], strict=True):
            one.merge(found)
        for record in other["records"]:
            record_case(record)

    name = ("all" if whole else f"fixed {len(indices)} of {len(cases)}") + ("" if counts else ON_REQUEST)
    values = results[0].metrics() if ranks.first else {}
    means = [one.mean() for one in results] if ranks.first else []
    if means and sizes:
        values |= {val_dsc_patch(size): mean for size, mean in zip(sizes, means, strict=True)}
        values[VAL_SELECTION] = float(np.mean(means))
    writer.validation(step, epoch, validation_id, values, n_cases=len(indices), subset=name, counts=counts)
    training.board.scalars(step, values)
    if counts:
        fresh, progress.validated_step = progress.validated_step < step, step
        progress.validations += fresh
        if whole:
            progress.whole_step = step
            progress.stale += fresh
            kept = [cases[index] for index in indices]
            # No size is favoured: the best weights of a flexible network are those with the best mean over its sizes.
            if ranks.first and _keep_best(training, progress, writer, float(np.mean(means)), kept):
                progress.stale = 0
    if ranks.first:
        each = [f"patch {size_text(size)} {mean:.4f}" for size, mean in zip(sizes, means, strict=False)]
        text = ", ".join(each) or f"{means[0]:.4f}"
        control.done(Verb.VALIDATE, detail=f"mean DSC {text} after step {step}")
        previews.tidy(keep=f"{progress.best.step:07d}" if progress.best else None)
        print(f"step {step}: validation DSC {text} on {len(indices)} cases (training grid)", flush=True)


def _keep_best(
    training: Training, progress: Progress, writer: Writer, mean: float, cases: Sequence[PreparedCase]
) -> bool:
    """Save the checkpoint if this validation is the best; return whether it is."""
    case_set = case_set_id([case.case_id for case in cases])
    if not progress.improves(mean, case_set):
        return False
    progress.best = Best(-1.0 if math.isnan(mean) else mean, progress.step, case_set)
    training.save("best", progress, writer)
    return True


def _affordable(training: Training, control: Control) -> int:
    """Measure the time of one case and return how many cases of the fold fit into the time limit."""
    cases, limit_s = training.validation, 60 * training.config.validation.max_minutes * training.ranks.world
    first = cases[0]
    network = training.evaluated
    was_training = network.training
    network.eval()
    began = time.monotonic()
    try:
        for view in at_each_size(network).values() or (network,):
            predict_volume(
                view,
                first.image(),
                training.target,
                training.placement,
                overlap=training.config.validation.overlap,
                mirror=training.config.validation.mirror,
                look=control.look,
            )
    finally:
        network.train(was_training)
    s_per_voxel = (time.monotonic() - began) / math.prod(first.shape)
    voxels = [math.prod(case.shape) for case in cases]
    count = len(cases)
    while count > 1 and s_per_voxel * sum(voxels[index] for index in spread(len(cases), count)) > limit_s:
        count -= 1
    return count
