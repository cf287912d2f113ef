"""What the finished trainings of a study say about patch sizes, for the rule ``learned``."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any

from patchcore.config.patches import patch_triple
from patchcore.errors import PatchcoreError
from patchcore.planning.samples import Learned
from patchcore.runs import RunState, list_runs, whole_view
from patchcore.runs.events import VAL_DSC_MEAN, val_dsc_patch
from patchcore.runs.paths import read_object
from patchcore.study import Study
from patchcore.types import IntTriple

__all__ = ["learned_patch_size"]


def learned_patch_size(study: Study, *, spacing: Any = None, lesion_label: int | None = None) -> Learned | None:
    """Return the patch size with the best mean validation DSC; None if no training has compared any.

    The newest of these counts: a finished flexible run, or an experiment in which only the patch size differs. Of an
    experiment the seeds and folds count that have finished at every patch size, each with its best validation on all
    cases. Trainings at another spacing, or for the lesions of another label, do not count.

    Args:
        study: The study.
        spacing: Training spacing that the plan will have, mm; None: any.
        lesion_label: Label of the lesions that the plan is for; None: any.
    """
    found: list[tuple[str, Learned]] = []
    groups: dict[tuple[str, str], list[tuple[IntTriple, tuple[int, int], str, float]]] = defaultdict(list)
    budget_sets_steps = cache(partial(_budget_sets_steps, study))  # read once per experiment, not once per run
    for summary in list_runs(study.path):
        if summary.state.state is not RunState.FINISHED:
            continue
        with suppress(PatchcoreError, OSError, KeyError, TypeError, ValueError):
            record = read_object(summary.path / "run.json") or {}
            target = record["plan"]["targets"][0]
            if spacing is not None and not _equal(target["spacing"], spacing):
                continue
            if lesion_label is not None and target["lesion_label"] != lesion_label:
                continue
            sizes = [patch_triple(size) for size in record["config"]["model"].get("patch_sizes", ())]
            name = str((record.get("experiment") or {}).get("name") or "")
            if not sizes and not name:
                continue  # its events need not be read
            best = whole_view(summary.path).best_validation
            if best is None or best.subset != "all":
                continue
            if sizes:
                dsc = {size: float(best.values[val_dsc_patch(size)]) for size in sizes}
                found.append((summary.run_id, _best(dsc, f"the flexible run {summary.run_id}")))
            else:
                place = (int(record["seed"]), int(record["config"]["train"]["fold"]))
                size = patch_triple(target["patch_size"])
                value = float(best.values[VAL_DSC_MEAN])
                group = _others(record["config"], budget_sets_steps=budget_sets_steps(name))
                groups[name, group].append((size, place, summary.run_id, value))
    for (name, _), trainings in groups.items():
        by_size: dict[IntTriple, dict[tuple[int, int], float]] = defaultdict(dict)
        for size, place, _, value in trainings:
            by_size[size].setdefault(place, value)  # the newest run comes first: an older one was set aside
        common = set.intersection(*(set(places) for places in by_size.values()))
        if len(by_size) > 1 and common:
            dsc = {size: math.fsum(places[one] for one in common) / len(common) for size, places in by_size.items()}
            newest = max(run_id for *_, run_id, _ in trainings)
            words = f"the experiment {name}, {len(common)} training{'s' * (len(common) > 1)} of each size"
            found.append((newest, _best(dsc, words)))
    return max(found, key=lambda one: one[0])[1] if found else None


def _best(dsc: Mapping[IntTriple, float], source: str) -> Learned:
    """Return the best size; a value that is not defined is the worst."""
    known = {size: -1.0 if math.isnan(value) else value for size, value in dsc.items()}
    return Learned(max(known, key=lambda size: known[size]), source, dict(dsc))


def _equal(a: Any, b: Any) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(a, b, strict=True))


def _budget_sets_steps(study: Study, name: str) -> bool:
    """Return whether the numbers of steps of an experiment follow from a budget of FLOP or hours."""
    protocol = read_object(study.path / "experiments" / name / "experiment.json") or {}
    return protocol.get("budget") in ("flops", "hours")


def _others(config: dict[str, Any], *, budget_sets_steps: bool) -> str:
    """Return the settings of a training that do not say its seed, its fold, or where it runs.

    Args:
        config: The configuration.
        budget_sets_steps: Whether the number of steps follows from the patch size, so that it is not among them.
    """
    kept = {name: dict(section) if isinstance(section, dict) else section for name, section in config.items()}
    kept.pop("seed", None)
    for name in ("fold", "threads", "device", "prepare_mib", "ranks"):
        kept["train"].pop(name, None)
    if budget_sets_steps:
        kept["train"].pop("steps", None)
    return json.dumps(kept, sort_keys=True)
