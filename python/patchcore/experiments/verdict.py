"""Says in words what an experiment has found, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from patchcore.experiments.points import PATCH_SIZE
from patchcore.experiments.protocol import Protocol
from patchcore.experiments.results import PointResult
from patchcore.experiments.scores import Scores
from patchcore.metrics.regret import Regret
from patchcore.metrics.statistics import RELIABLE_PATIENTS
from patchcore.views.document import Table

__all__ = ["transfer_verdicts", "verdicts"]


def verdicts(scores: Scores, protocol: Protocol, chosen: int | None) -> list[str]:
    """Return what a sweep has found, the result first.

    Args:
        scores: The scores of all settings.
        protocol: The protocol.
        chosen: Number of the setting that the plan has chosen; None if it is not among them.
    """
    best = scores.best
    labels = [setting.label for setting in scores.settings]
    texts = []
    if len(labels) < 2:
        texts.append(f"Only {labels[0]} has finished: mean DSC {scores.mean(0)}. There is nothing to compare yet.")
    elif chosen is None:
        text = f"Highest mean DSC: {labels[best]}, {scores.mean(best)}."
        if list(protocol.over) == [PATCH_SIZE]:
            text += " The patch size of the plan was not trained, so the choice of the rule cannot be scored."
        elif PATCH_SIZE in protocol.over:
            text += " Other settings change, too, so the choice of the rule alone is not scored."
        texts.append(text)
    else:
        texts.append(_of_choice(scores, protocol, chosen, best, scores.regrets[chosen]))
    if protocol.flexible:
        texts.append(
            "These are the patch sizes of one flexible network per seed and fold, which has learned all of them at the "
            "same time. Separate trainings of each size may differ."
        )
    texts += _warnings(scores)
    return texts


def _of_choice(scores: Scores, protocol: Protocol, chosen: int, best: int, regret: Regret) -> str:
    labels = [setting.label for setting in scores.settings]
    target = protocol.plan.target
    who = f"The rule {target.rule}" if len(target.lesion_labels) < 2 else "The joint plan"
    begin = f"{who} chose {labels[chosen]}, mean DSC {scores.mean(chosen)}."
    if math.isnan(regret.low):
        return f"{begin} There are too few patients to say whether another choice is better."
    lost = f"regret {regret.mean:+.3f} [{regret.low:+.3f}, {regret.high:+.3f}]"
    if regret.low > 0:
        words = f"This choice lost: {labels[best]} has {scores.mean(best)}; {lost}, cross-fitted over patients."
    elif chosen == best:
        words = f"No other setting has a higher mean: the choice was the best; {lost}, cross-fitted over patients."
    else:
        words = (
            f"The highest mean has {labels[best]}, {scores.mean(best)}, but the choice is within noise of the best: "
            f"{lost}, cross-fitted over patients."
        )
    return f"{begin} {words}"


def transfer_verdicts(scores: Scores, gains: Table) -> list[str]:
    """Return what a transfer experiment has found on one target, one sentence per source and patch size."""
    texts = []
    for row in gains.rows:
        where = f"Pre-training on {row['source']}, patch {row['patch_size']}:"
        parts = []
        for key, what in (
            ("scratch", "training from scratch with the steps of the fine-tuning"),
            ("scratch_both", "training from scratch with all steps"),
        ):
            mean, low, high = (row.get(f"gain_{key}{end}", math.nan) for end in ("", "_low", "_high"))
            if math.isnan(mean):
                continue
            if math.isnan(low):
                parts.append(f"{mean:+.3f} against {what}, from too few patients to say more")
                continue
            word = "better than" if low > 0 else "worse than" if high < 0 else "within noise of"
            parts.append(f"{word} {what} ({mean:+.3f} [{low:+.3f}, {high:+.3f}])")
        texts.append(f"{where} {' and '.join(parts) or 'the controls have not finished'}.")
    return (texts or ["No fine-tuning has finished yet."]) + _warnings(scores)


def _warnings(scores: Scores) -> list[str]:
    texts = []
    if scores.patient_count < RELIABLE_PATIENTS:
        texts.append(
            f"Only {scores.patient_count} patients: with fewer than {RELIABLE_PATIENTS}, intervals and tests are "
            "unreliable."
        )
    if len(scores.by_seed) < 2:
        texts.append("Only one seed: the noise between trainings of the same setting is not known.")
    late = [setting.label for setting in scores.settings if _not_converged(setting.points)]
    if late:
        texts.append(
            f"Not converged: {', '.join(late)}. The validation DSC still rose by more than 0.01 in the last fifth of "
            "the steps, so more steps may change the comparison."
        )
    return texts


def _not_converged(points: Sequence[PointResult]) -> bool:
    return any(point.converged is False for point in points)
