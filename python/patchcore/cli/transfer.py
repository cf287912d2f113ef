"""``patchcore transfer SOURCE… --target STUDY``: does pre-training on larger lesions pay?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchcore.cli.experiment_start import (
    AsJson,
    Detach,
    DryRun,
    Executor,
    Failures,
    Folds,
    KeepCheckpoints,
    Lead,
    Name,
    Preset,
    RayAddress,
    Recipe,
    Sbatch,
    Seeds,
    Settings,
    Slots,
    TomlFile,
    experiment_options,
    start,
    where,
)

__all__ = ["transfer"]


def transfer(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Studies to pre-train on: larger lesions.")
    ],
    target: Annotated[
        list[Path],
        typer.Option(help="Study to fine-tune on, with a plan; may be repeated: the experiment is in the first one."),
    ],
    patch_sizes: Annotated[
        str | None, typer.Option(help="Patch sizes, such as 8,16,8x8x4 [default: that of the target's plan].")
    ] = None,
    pretrain_steps: Annotated[int | None, typer.Option(min=1, help="Steps of a pre-training.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a fine-tuning.")] = None,
    finetune_settings: Annotated[
        list[str] | None,
        typer.Option("--set-finetune", help="SECTION.KEY=VALUE of the fine-tunings only; may be repeated."),
    ] = None,
    seeds: Seeds = 1,
    folds: Folds = "0",
    settings: Settings = None,
    config: TomlFile = None,
    preset: Preset = None,
    recipe: Recipe = None,
    name: Name = None,
    slots: Slots = None,
    executor: Executor = None,
    sbatch: Sbatch = None,
    lead: Lead = None,
    ray_address: RayAddress = None,
    failures: Failures = 2,
    keep_checkpoints: KeepCheckpoints = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Pre-train on each source, fine-tune on each target, and train two controls from scratch.

    The controls are trained on the target alone: with the steps of a fine-tuning, and with the steps of pre-training
    and fine-tuning together. Sources use spacing, window, HU range and patch size of the target; their own plans stay
    as they are. The same command continues an experiment. patchcore report shows what came out.
    """
    from patchcore.experiments.transfer import plan_transfer
    from patchcore.training.launch import settings_of

    place = where(executor, slots, sbatch, lead, ray_address)
    protocol = plan_transfer(
        sources,
        target,
        patch_sizes=patch_sizes.split(",") if patch_sizes else (),
        pretrain_steps=pretrain_steps,
        finetune_steps=steps,
        finetune_settings=finetune_settings or (),
        **experiment_options(
            seeds=seeds,
            folds=folds,
            settings=[*(settings or []), *settings_of({"recipe": recipe, "model.preset": preset})],
            toml=config,
            name=name,
            slots=slots,
            failures=failures,
            keep_checkpoints=keep_checkpoints,
        ),
    )
    start(target[0], protocol, place, dry_run=dry_run, detach=detach, as_json=as_json)
