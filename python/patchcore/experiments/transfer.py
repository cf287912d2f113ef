"""Does pre-training on larger lesions pay? Source trainings, fine-tunings and both controls, under one protocol.

For each patch size, seed and fold:

    pre-training   on each source, under the plan of the target
    fine-tuning    on the target, from the best weights of a pre-training
    scratch        on the target, with as many steps as a fine-tuning
    scratch-both   on the target, with the steps of pre-training and fine-tuning together

The last one answers whether the steps were spent well: pre-training must beat it, not only ``scratch``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from patchcore.config import Plan, resolve_config
from patchcore.config.cost import check_window, patch_triple
from patchcore.datasets.plan import compute_plan
from patchcore.errors import ConfigError, StudyError
from patchcore.experiments.folder import ExperimentFolder
from patchcore.experiments.options import Common, Options, check_settings, resolve_options, where_of
from patchcore.experiments.points import PATCH_SIZE, network_gflop, point_name, read_patch_size
from patchcore.experiments.protocol import OtherStudy, Point, Protocol, with_patch_size
from patchcore.experiments.start import run_experiment
from patchcore.experiments.status import ExperimentStatus
from patchcore.models.registry import check_network, window_units
from patchcore.study import Study
from patchcore.training.launch import check_training
from patchcore.types import IntTriple, PathLike

__all__ = ["TRAINING", "plan_transfer", "transfer"]

TRAINING = "training"
"""The axis whose values are pre-training, fine-tuning, scratch and scratch-both."""


@dataclass(frozen=True)
class _Place:
    """A study in its part: its key in the protocol, its plan there, and its name."""

    key: str
    name: str
    plan: Plan
    study: Study


def plan_transfer(
    sources: Sequence[Study | PathLike],
    targets: Sequence[Study | PathLike],
    *,
    patch_sizes: Sequence[int | IntTriple | str] = (),
    pretrain_steps: int | None = None,
    finetune_steps: int | None = None,
    finetune_settings: Sequence[str] = (),
    **options: Unpack[Options],
) -> Protocol:
    """Make and check the protocol of a transfer experiment. Nothing is written or started.

    Args:
        sources: Studies to pre-train on. They need no plan; if they have one, it is neither used nor changed, but its
            lesion label is.
        targets: Studies to fine-tune on, each with a plan. The experiment lives in the first one.
        patch_sizes: Patch sizes [default: that of the first target's plan].
        pretrain_steps: Steps of a pre-training [default: ``train.steps``].
        finetune_steps: Steps of a fine-tuning [default: ``train.steps``].
        finetune_settings: ``section.key=value`` of the fine-tunings only, such as ``init.freeze_epochs=2``.
        options: As for :class:`patchcore.experiments.options.Options`.

    Raises:
        StudyError: There is no such study, or a target has no plan.
        ConfigError: A study is named twice, an impossible value, too few patients for the folds.
        PlanError: A source has no lesions to plan for.
        PatchSizeError: A patch size has no UNETR, or does not divide the window.
    """
    from_studies = [item if isinstance(item, Study) else Study(item) for item in sources]
    to_studies = [item if isinstance(item, Study) else Study(item) for item in targets]
    if not from_studies or not to_studies:
        raise ConfigError("a transfer needs at least one source and one target")
    ids = [study.study_id for study in (*from_studies, *to_studies)]
    if len(set(ids)) < len(ids):
        raise ConfigError("a study is named twice", found=[study.path.name for study in (*from_studies, *to_studies)])
    common = resolve_options(options, "transfer")
    check_settings(resolve_config(settings=[*common.settings, *finetune_settings]))
    if common.config.init.source:
        raise ConfigError(
            f"init.source={common.config.init.source} would start the trainings from scratch from it, too",
            remedy="name its study as a source",
        )
    steps = (pretrain_steps or common.config.train.steps, finetune_steps or common.config.train.steps)
    home, *others = to_studies
    names = _names([*from_studies, *to_studies])
    plans = {study.study_id: _plan(study) for study in to_studies}
    edges = [read_patch_size(_text(size)) for size in patch_sizes] or [plans[home.study_id].patch_size]
    units = window_units([common.config.model.network])
    plans = {study_id: plan.fitting([*edges, *units]) for study_id, plan in plans.items()}
    studies: dict[str, OtherStudy] = {}
    points: list[Point] = []

    def place(study: Study, key: str, plan: Plan) -> _Place:
        studies[key] = OtherStudy(
            path=os.path.relpath(study.path.resolve(), home.path.resolve()), study_id=study.study_id, plan=plan
        )
        return _Place(key, names[study.study_id], plan, study)

    for target in to_studies:
        plan = plans[target.study_id]
        name = names[target.study_id]
        at_target = _Place("", name, plan, target) if target is home else place(target, name, plan)
        at_sources = [
            place(source, names[source.study_id] + (f"-as-{name}" if others else ""), _like(source, name, plan))
            for source in from_studies
        ]
        for patch in edges:
            points += _points(at_target, at_sources, patch, common, steps, finetune_settings, matrix=bool(others))
    return Protocol(
        **common.of_protocol(),
        kind="transfer",
        over={
            "source": tuple(names[study.study_id] for study in from_studies),
            "target": tuple(names[study.study_id] for study in to_studies),
            PATCH_SIZE: tuple("x".join(map(str, patch)) for patch in edges),
        },
        budget="steps",
        plan=plans[home.study_id],
        studies=studies,
        points=tuple(points),
    )


def transfer(
    sources: Sequence[Study | PathLike],
    targets: Sequence[Study | PathLike],
    *,
    patch_sizes: Sequence[int | IntTriple | str] = (),
    pretrain_steps: int | None = None,
    finetune_steps: int | None = None,
    finetune_settings: Sequence[str] = (),
    detach: bool = False,
    **options: Unpack[Options],
) -> ExperimentStatus:
    """Pre-train on each source, fine-tune on each target, train the controls, and return what was reached.

    Args:
        sources: As for :func:`plan_transfer`.
        targets: As for :func:`plan_transfer`.
        patch_sizes: As for :func:`plan_transfer`.
        pretrain_steps: As for :func:`plan_transfer`.
        finetune_steps: As for :func:`plan_transfer`.
        finetune_settings: As for :func:`plan_transfer`.
        detach: Return at once.
        options: As for :class:`patchcore.experiments.options.Options`.

    Raises:
        ConfigError: As for :func:`plan_transfer`; or an experiment of this name has another protocol.
        LockedError: Another process of this host works on the experiment.
        PatchcoreError: As for :func:`plan_transfer`.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.transfer(["lits/"], ["mcrc/"], patch_sizes=[8, 16], pretrain_steps=4000)  # doctest: +SKIP
    """
    protocol = plan_transfer(
        sources,
        targets,
        patch_sizes=patch_sizes,
        pretrain_steps=pretrain_steps,
        finetune_steps=finetune_steps,
        finetune_settings=finetune_settings,
        **options,
    )
    first = targets[0]
    home = first.path if isinstance(first, Study) else Study(first).path
    where = where_of(options)  # checked before anything is written
    return run_experiment(ExperimentFolder.create(home, protocol), where, detach=detach)


def _points(
    target: _Place,
    sources: Sequence[_Place],
    patch: IntTriple,
    common: Common,
    steps: tuple[int, int],
    finetune_settings: Sequence[str],
    *,
    matrix: bool,
) -> list[Point]:
    """Return the points of one target and patch size."""
    pretrain_steps, finetune_steps = steps
    points: list[Point] = []

    def add(
        kind: str,
        at: _Place,
        count: int,
        cell: tuple[int, int],
        source: str = "",
        after: str | None = None,
        own: Sequence[str] = (),
    ) -> str:
        seed, fold = cell
        config = resolve_config(settings=[*common.settings, *own, f"train.steps={count}"])
        plan = with_patch_size(at.plan, patch, common.name)
        check_training(at.study, plan, config)
        values = {TRAINING: kind, "source": source, "target": target.name, PATCH_SIZE: "x".join(map(str, patch))}
        between = f"_to_{target.name}" if matrix else ""
        stem = f"{kind}{'_' + source if source else ''}{between}"
        name = point_name(
            {PATCH_SIZE: values[PATCH_SIZE]},
            patch,
            seed if len(common.seeds) > 1 else None,
            fold if len(common.folds) > 1 else None,
        )
        point = Point(
            point_id=f"{stem}_{name}".lower(),
            values=values,
            patch_size=patch,
            settings=(*own, f"train.steps={count}", f"seed={seed}", f"train.fold={fold}"),
            seed=seed,
            fold=fold,
            steps=count,
            patch_sizes=tuple(map(patch_triple, config.model.patch_sizes)),
            gflop_per_window=network_gflop(config, plan, patch),
            study=at.key,
            after=after,
        )
        points.append(point)
        return point.point_id

    check_window(target.plan.window_size, patch)
    check_network(common.config.model, target.plan.window_size, patch)
    for cell in itertools.product(common.seeds, common.folds):
        for source in sources:
            name = source.name
            before = add("pre-training", source, pretrain_steps, cell, name)
            add("fine-tuning", target, finetune_steps, cell, name, before, finetune_settings)
        add("scratch", target, finetune_steps, cell)
        add("scratch-both", target, pretrain_steps + finetune_steps, cell)
    return points


def _plan(study: Study) -> Plan:
    try:
        return study.plan()
    except StudyError as error:
        error.remedy = f"plan the target first: patchcore plan {study.path}"
        raise


def _like(source: Study, target: str, plan: Plan) -> Plan:
    """Return the plan of a source under the protocol of a target."""
    label = source.plan().target.lesion_label if source.plan_path.exists() else None
    return compute_plan(source, like=(target, plan), lesion_label=label)


def _names(studies: Sequence[Study]) -> dict[str, str]:
    """Return a short name of each study, by its id: its folder, or the one above if that is called study."""
    names: dict[str, str] = {}
    for study in studies:
        folder: Path = study.path.parent if study.path.name.lower() in ("study", "patchcore") else study.path
        name = "".join(c if c.isalnum() else "-" for c in folder.name.lower()).strip("-") or "study"
        taken = set(names.values())
        names[study.study_id] = name if name not in taken else f"{name}-{len(names) + 1}"
    return names


def _text(size: int | IntTriple | str) -> str:
    return size if isinstance(size, str) else str(size) if isinstance(size, int) else "x".join(map(str, size))
