"""Makes the points of a sweep: all combinations of the values of its axes, with each seed and fold."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from patchcore.config import Plan, resolve_config
from patchcore.config.cost import NetworkCost, check_window, network_cost, patch_triple
from patchcore.config.patches import size_text
from patchcore.config.run import ModelConfig, RunConfig, config_keys
from patchcore.errors import ConfigError, PatchSizeError
from patchcore.experiments.protocol import Budget, Point
from patchcore.models.registry import check_network
from patchcore.types import IntTriple, PathLike

__all__ = [
    "PATCH_SIZE",
    "make_points",
    "network_gflop",
    "parse_axes",
    "point_cost",
    "point_name",
    "read_patch_size",
    "settings_of_toml",
    "training_flop",
]

PATCH_SIZE: Final = "patch_size"
"""The axis that changes the plan; all other axes change settings of the run."""

FLEXIBLE: Final = "flexible"
"""Stands in the name of a point in place of a patch size."""

_OWN_OPTIONS: Final = {
    "seed": "--seeds", "train.fold": "--folds", "train.folds": "--set train.folds=…",
    "train.epochs": "--over train.steps=…",
}  # fmt: skip
_OF_ALL: Final = ("train.fold_seed", "init.source")


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read axes such as ``patch_size=8,12,8x8x4`` or ``optim.lr=1e-3,4e-4``.

    Commas within brackets belong to a value: ``augment.axes=[0,1],[0,1,2]``.

    Args:
        texts: One text per axis: the key, ``=``, and the values, separated by commas.

    Returns:
        Key → values as text, in the order given.

    Raises:
        ConfigError: A text is not an axis, a key is unknown or given twice, or a value is given twice.

    Example:
        >>> parse_axes(["patch_size=8,8x8x4", "optim.lr=1e-3"])
        {'patch_size': ('8', '8x8x4'), 'optim.lr': ('1e-3',)}
    """
    known = config_keys()
    axes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        key = key.strip()
        values = tuple(value.strip() for value in re.split(r",(?![^\[]*\])", listed))
        if not equals or not all(values):
            raise ConfigError(f"--over {text}: not an axis", expected="KEY=VALUE,VALUE,…", remedy="patch_size=8,12,16")
        if key in _OWN_OPTIONS:
            raise ConfigError(f"--over {key}: this is not an axis", remedy=f"use {_OWN_OPTIONS[key]}")
        if key in _OF_ALL:
            raise ConfigError(f"--over {key}: it must be the same for all points", remedy=f"use --set {key}=…")
        if key != PATCH_SIZE and key not in known:
            near = difflib.get_close_matches(key, [PATCH_SIZE, *known], n=3)
            raise ConfigError(
                f"--over {key}: there is no such setting",
                remedy=f"did you mean {' or '.join(near)}?" if near else "patchcore train --list-settings lists them",
            )
        if key in axes or len(set(values)) < len(values):
            raise ConfigError(f"--over {text}: {'the axis' if key in axes else 'a value'} is given twice")
        axes[key] = values
    if not axes:
        raise ConfigError("a sweep needs at least one axis", remedy="use --over patch_size=8,12,16,24")
    return axes


def settings_of_toml(path: PathLike) -> list[str]:
    """Return the content of a TOML file as ``section.key=value`` settings.

    Raises:
        ConfigError: The file is not TOML.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML ({error})", path=path) from None
    settings = []
    for section, value in loaded.items():
        values: Mapping[str, Any] = (
            {f"{section}.{key}": item for key, item in value.items()} if (isinstance(value, dict)) else {section: value}
        )
        settings += [f"{key}={json.dumps(item)}" for key, item in values.items()]
    return settings


def make_points(
    plan: Plan,
    axes: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int],
    folds: Sequence[int],
    settings: Sequence[str],
    budget: Budget,
    check: Callable[[RunConfig, Plan], None] = lambda config, plan: None,
    flop: float | None = None,
    flexible: bool = False,
) -> tuple[Point, ...]:
    """Make and check all points of a sweep.

    Args:
        plan: The study's plan.
        axes: Key → values, from :func:`parse_axes`.
        seeds: Seeds, each of all combinations.
        folds: Validation folds, each of all combinations and seeds.
        settings: ``section.key=value`` of all points.
        budget: ``steps``: all points make the same number of steps. ``flops``: the steps of a point are such that its
            training takes as many FLOP as that of the plan's patch size, or of the first point.
        check: Checks that the study can be trained with a configuration and a plan.
        flop: With ``flops``: FLOP of each training, from :func:`training_flop` [default: see `budget`].
        flexible: Whether all values of ``patch_size`` are those of one flexible network.

    Raises:
        PatchSizeError: A patch size has no UNETR, or does not divide the plan's window.
        ConfigError: A value is impossible, a fold does not exist, or the budget cannot be computed.
    """
    points: list[Point] = []
    common: tuple[str, ...] = ()
    base = plan.patch_size
    if flexible:
        sizes = _sizes_of_one_network(axes, settings, plan)
        common = (f"model.patch_sizes={json.dumps(sizes)}",)
        base = base if base in sizes else sizes[0]
        axes = {key: values for key, values in axes.items() if key != PATCH_SIZE}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        patch = _patch_size(chosen[PATCH_SIZE], plan) if PATCH_SIZE in chosen else base
        own = (*common, *(f"{key}={value}" for key, value in chosen.items() if key != PATCH_SIZE))
        config = resolve_config(settings=[*settings, *own])
        if config.model.patch_sizes and PATCH_SIZE in chosen:
            raise ConfigError(
                "model.patch_sizes makes one network for several patch sizes, so patch_size cannot be an axis",
                remedy="leave model.patch_sizes out, or use --flexible: one network for all values of patch_size",
            )
        check_network(config.model, plan.window_size, patch)
        check(config, plan)
        for seed, fold in itertools.product(seeds, folds):
            if not 0 <= fold < config.train.folds:
                raise ConfigError(f"fold {fold} does not exist", found=fold, expected=f"0 to {config.train.folds - 1}")
            points.append(
                Point(
                    point_id=point_name(
                        {**({FLEXIBLE: ""} if flexible else {}), **chosen},
                        patch,
                        seed if len(seeds) > 1 else None,
                        fold if len(folds) > 1 else None,
                    ),
                    values=chosen,
                    patch_size=patch,
                    settings=(*own, f"seed={seed}", f"train.fold={fold}"),
                    seed=seed,
                    fold=fold,
                    steps=config.train.steps,
                    patch_sizes=tuple(map(patch_triple, config.model.patch_sizes)),
                    gflop_per_window=network_gflop(config, plan, patch),
                )
            )
    names = [point.point_id for point in points]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two points have the same values: {', '.join(sorted(twice))}")
    return tuple(points) if budget == "steps" else _of_equal_flops(points, plan, settings, flop)


def _sizes_of_one_network(axes: Mapping[str, Sequence[str]], settings: Sequence[str], plan: Plan) -> list[IntTriple]:
    """Return the patch sizes of the flexible network of a sweep.

    Raises:
        ConfigError: They are not the values of the axis ``patch_size``.
    """
    if any(text.startswith("model.patch_sizes=") for text in settings) or "model.patch_sizes" in axes:
        raise ConfigError("--flexible sets model.patch_sizes itself", remedy="give the sizes as --over patch_size=8,12")
    sizes = [_patch_size(text, plan) for text in axes.get(PATCH_SIZE, ())]
    if len(sizes) < 2:
        raise ConfigError(
            "--flexible trains one network for several patch sizes, so it needs them",
            expected="at least two",
            remedy="use --over patch_size=8,12,16,24",
        )
    return sizes


def training_flop(point: Point, settings: Sequence[str]) -> float | None:
    """Return the FLOP of a training, forward and backward; None if they are not known.

    Args:
        point: The point.
        settings: ``section.key=value`` of all points.
    """
    if point.gflop_per_window is None:
        return None
    windows = resolve_config(settings=[*settings, *point.settings]).train.batch_size * point.steps
    return 3e9 * point.gflop_per_window * windows  # a backward pass costs twice a forward pass


def _of_equal_flops(
    points: Sequence[Point], plan: Plan, settings: Sequence[str], flop: float | None
) -> tuple[Point, ...]:
    reference = next((point for point in points if point.patch_size == plan.patch_size), points[0])
    changed = []
    for point in points:
        own, wanted = training_flop(point, settings), flop or training_flop(reference, settings)
        if own is None or wanted is None:
            raise ConfigError(
                f"--budget flops: the FLOP of {point.values.get('model.network', 'this network')} are not known",
                remedy="use --budget steps",
            )
        if any(text.startswith("train.steps=") for text in point.settings):
            raise ConfigError("--budget flops sets the number of steps, so train.steps cannot be an axis")
        steps = max(1, round(point.steps * wanted / own))
        changed.append(point.model_copy(update={"steps": steps, "settings": (*point.settings, f"train.steps={steps}")}))
    return tuple(changed)


def read_patch_size(text: str) -> IntTriple:
    """Read ``8`` or ``8x8x4``, in canonical axis order.

    Raises:
        ConfigError: The text is not a size.
        PatchSizeError: The size is illegal.
    """
    try:
        edges = [int(edge) for edge in text.split("x")]
    except ValueError:
        edges = []
    if len(edges) not in (1, 3):
        raise ConfigError(f"{text!r} is not a patch size", expected="8, or 8x8x4 for three axes")
    return patch_triple(edges[0] if len(edges) == 1 else edges)


def _patch_size(text: str, plan: Plan) -> IntTriple:
    """Read a patch size that divides the window of a plan."""
    patch = read_patch_size(text)
    try:
        check_window(plan.window_size, patch)
    except PatchSizeError as error:
        error.remedy = error.remedy or "leave this size out, or plan with another --window"
        raise
    return patch


def point_cost(model: ModelConfig, plan: Plan, patch: IntTriple) -> NetworkCost:
    """Return the cost of a UNETR of these sizes and this patch size, for the window and the classes of a plan."""
    return network_cost(
        plan.window_size,
        patch,
        out_channels=len(plan.target.classes) + 1,
        hidden_size=model.hidden_size,
        mlp_dim=model.mlp_dim,
        num_heads=model.num_heads,
        feature_size=model.feature_size,
        tokenizer=model.tokenizer,
    )


def network_gflop(config: RunConfig, plan: Plan, patch: IntTriple) -> float | None:
    """Return the GFLOP of a forward pass of one window; None if they are not known for this network.

    Args:
        config: The configuration.
        plan: The plan, which has the window and the classes.
        patch: Patch size of a fixed network. For a flexible one, the mean over its steps is returned.
    """
    if config.model.network not in ("unetr", "monai-unetr"):
        return None
    sizes = [patch_triple(size) for size in config.model.patch_sizes] or [patch]
    shares = config.model.patch_size_shares or (1.0,) * len(sizes)
    flop = [share * point_cost(config.model, plan, size).flop for share, size in zip(shares, sizes, strict=True)]
    return round(math.fsum(flop) / math.fsum(shares) / 1e9, 6)


def point_name(values: Mapping[str, str], patch: IntTriple, seed: int | None, fold: int | None) -> str:
    """Return the name of a point; seed and fold are None if there is only one."""
    parts = []
    for key, value in values.items():
        if key == FLEXIBLE:
            parts.append(FLEXIBLE)
        elif key == PATCH_SIZE:
            parts.append(f"patch{size_text(patch)}")
        else:
            parts.append(
                key.rpartition(".")[2].replace("_", "-") + "-" + re.sub(r"[^A-Za-z0-9.]+", "-", value).strip("-")
            )
    parts += [] if seed is None else [f"seed{seed}"]
    parts += [] if fold is None else [f"fold{fold}"]
    return "_".join(parts).lower()
