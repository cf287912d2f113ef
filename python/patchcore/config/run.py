"""Schema of a run's configuration. It is read from TOML and ``--set``, and stored as JSON; unknown keys are errors.

This file is long because every setting is described here.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config.explain import explain
from patchcore.config.patches import Tokenizer, patch_triple, upsampling_factors
from patchcore.config.recipes import change_recipe, without_unetr
from patchcore.errors import ConfigError
from patchcore.launched import Launched
from patchcore.types import IntTriple, PathLike

__all__ = [
    "MODEL_PRESETS",
    "AugmentConfig",
    "InitConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainConfig",
    "ValidationConfig",
    "check_shares",
    "config_keys",
    "resolve_config",
]

MODEL_PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4},
    "small": {"hidden_size": 192, "mlp_dim": 768, "num_heads": 6, "feature_size": 16},
    "base": {"hidden_size": 768, "mlp_dim": 3072, "num_heads": 12, "feature_size": 16},
}


PatchEdges: TypeAlias = int | IntTriple
"""A patch size: one edge for all axes, or one per axis."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Settings of the network. Patch and window size come from the plan."""

    preset: Literal["tiny", "small", "base"] = Field(
        default="base", description="Network sizes to start from: tiny, small or base. base is UNETR as published."
    )
    hidden_size: int = Field(default=768, ge=8, description="Width of a token.")
    mlp_dim: int = Field(default=3072, ge=8, description="Hidden width of a transformer MLP.")
    num_heads: int = Field(default=12, ge=1, description="Number of attention heads; must divide hidden_size.")
    feature_size: int = Field(default=16, ge=1, description="Number of channels at full resolution.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout rate in the transformer.")
    network: str = Field(
        default="unetr",
        description="unetr, a comparison network (see patchcore models --networks), or module:callable.",
    )
    checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, more time."
    )
    deep_supervision: bool = Field(default=False, description="Also compute the loss of the coarser decoder stages.")
    tokenizer: Tokenizer = Field(
        default="linear",
        description="How unetr computes a token: linear (one convolution), residual (stages), or pyramid (stages that "
        "also feed the skip connections).",
    )
    patch_sizes: tuple[PatchEdges, ...] = Field(
        default=(),
        description="Patch sizes of a flexible unetr, e.g. [8,12,16,24], with the plan's; empty: only the plan's.",
    )
    patch_size_shares: tuple[float, ...] = Field(
        default=(), description="Share of the steps at each of patch_sizes; empty: equal shares."
    )
    base_patch_size: PatchEdges | None = Field(
        default=None, description="Flexible: patch size of the stored positions and embedding; null: the plan's."
    )
    embedding: Literal["own", "transposed", "pseudo-inverse"] = Field(
        default="own",
        description="Flexible: an embedding for each size (own), or one that is resampled: transposed, pseudo-inverse.",
    )
    kernels: Literal["own", "shared"] = Field(
        default="own",
        description="Flexible: up-sampling kernels per factor (own), or resampled from one (shared).",
    )


class LossConfig(_Section):
    """Settings of the loss: soft Dice plus cross-entropy."""

    batch_dice: bool = Field(
        default=False,
        description="Compute Dice over all windows of a forward pass, on all ranks together, instead of per window.",
    )


class OptimConfig(_Section):
    """Settings of the optimiser and its learning rate schedule."""

    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="adamw, or sgd with Nesterov momentum as in nnU-Net."
    )
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Momentum of sgd.")
    lr: float = Field(default=4e-4, gt=0, description="Peak learning rate; nnU-Net uses 1e-2 with sgd.")
    schedule: Literal["cosine", "polynomial"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up: cosine or polynomial."
    )
    power: float = Field(default=0.9, gt=0, description="Exponent of the polynomial schedule.")
    min_lr_share: float = Field(default=0.01, ge=0, le=1, description="Last learning rate, as a share of lr.")
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Weight decay of matrices and kernels; None: 1e-2 for adamw (decoupled), 3e-5 for sgd (coupled).",
    )
    warmup_steps: int = Field(default=50, ge=0, description="Number of steps of linear warm-up.")
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Validate and keep a moving average of the weights with this decay, e.g. 0.999; 0: no average.",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="Largest gradient norm; a larger gradient is clipped to it."
    )


class SamplingConfig(_Section):
    """How training windows are drawn; see :mod:`patchcore.windows.extract`."""

    lesion_share: float = Field(default=0.5, ge=0, le=1, description="Share of windows drawn around a lesion voxel.")
    alpha: float = Field(default=0.5, ge=0, description="A case is drawn in proportion to (number of lesions)**alpha.")
    organ_label: int = Field(default=0, ge=0, description="Label of an organ, one of the plan's classes; 0: no organ.")
    organ_share: float = Field(default=0.0, ge=0, le=1, description="Share of windows drawn around an organ voxel.")
    lesion_free_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of windows drawn in cases without lesions."
    )
    hard_points: str = Field(
        default="", description="CSV file of points to sample more often: case_id,x_mm,y_mm,z_mm,weight (world, RAS+)."
    )
    hard_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of windows drawn around the points of hard_points."
    )
    cache_mib: int = Field(default=256, ge=0, description="Decoded chunks kept in memory [MiB]; 0: no cache.")


class AugmentConfig(_Section):
    """How training windows are augmented, on the batch's device. A share is the share of windows that are changed."""

    flips: bool = Field(default=True, description="Mirror windows at random along each axis.")
    quarter_turns: bool = Field(
        default=True,
        description="Turn windows by random multiples of 90° between axes of equal spacing and window edge.",
    )
    affine_share: float = Field(default=0.2, ge=0, le=1, description="Share of windows that are rotated and scaled.")
    rotate_degrees: float = Field(
        default=15.0, ge=0, le=180, description="Largest angle about each axis, in both directions [degrees]."
    )
    zoom: float = Field(default=0.15, ge=0, lt=1, description="Random size, between 1 - zoom and 1 + zoom.")
    noise_share: float = Field(default=0.1, ge=0, le=1, description="Share of windows that get Gaussian noise.")
    noise: float = Field(
        default=0.05, ge=0, description="Largest standard deviation of the noise, as a share of hu_range."
    )
    blur_share: float = Field(default=0.1, ge=0, le=1, description="Share of windows that are blurred.")
    blur: float = Field(
        default=1.0, ge=0, description="Largest standard deviation of the Gaussian blur [voxels of the finest axis]."
    )
    low_resolution_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of windows that are made coarser and then interpolated back."
    )
    low_resolution: float = Field(
        default=0.5, gt=0, le=1, description="Coarsest resolution, as a share of the voxels along an axis."
    )
    gamma_share: float = Field(default=0.2, ge=0, le=1, description="Share of windows with a changed gamma.")
    gamma: float = Field(default=0.3, ge=0, lt=1, description="Random exponent, between 1 / (1 + gamma) and 1 + gamma.")
    hu_shift: float = Field(
        default=0.05, ge=0, description="Largest random offset in both directions, as a share of hu_range."
    )
    hu_scale: float = Field(
        default=0.1, ge=0, lt=1, description="Random contrast, between 1 - hu_scale and 1 + hu_scale."
    )


class InitConfig(_Section):
    """Where the initial weights come from."""

    source: str = Field(
        default="",
        description="Weights to start from: run folder, .safetensors or file of torch.save; empty: from scratch.",
    )
    part: Literal["all", "encoder"] = Field(
        default="all", description="Part to load: all, or encoder for the transformer alone."
    )
    embedding: Literal["transposed", "pseudo-inverse"] = Field(
        default="transposed",
        description="Resampling of the patch embedding to another patch size: transposed or pseudo-inverse.",
    )
    freeze_epochs: int = Field(
        default=0, ge=0, description="Number of first epochs in which the transformer is frozen."
    )


class ValidationConfig(_Section):
    """Validation of whole volumes of the validation fold, by sliding window."""

    every_epochs: int = Field(default=1, ge=1, description="Number of epochs from one validation to the next.")
    overlap: float = Field(
        default=0.5, ge=0, lt=1, description="Overlap of neighbouring windows, as a share of the window."
    )
    mirror: bool = Field(
        default=False, description="Average over windows mirrored along every axis: 8 times the work, slightly better."
    )
    max_cases: int = Field(
        default=0,
        ge=0,
        description="Validate a fixed subset of this many cases; 0: always all cases. See whole_every.",
    )
    max_minutes: float = Field(
        default=0,
        ge=0,
        description="Choose the subset so that a validation takes about this long [minutes]; 0: no limit.",
    )
    whole_every: int = Field(
        default=5,
        ge=1,
        description="One in this many validations uses all cases; only these choose the best checkpoint.",
    )
    previews: int = Field(
        default=4,
        ge=0,
        description="Number of cases drawn for the dashboard: half of them fixed, half the worst; 0: none.",
    )


class TrainConfig(_Section):
    """Length of the training, batch, folds and precision."""

    steps: int = Field(default=20_000, ge=1, description="Number of optimiser steps.")
    epochs: int = Field(default=0, ge=0, description="Number of epochs, used instead of steps; 0: use steps.")
    patience: int = Field(
        default=0, ge=0, description="End after this many validations of all cases without a better DSC; 0: never."
    )
    compile: Literal["auto", "off", "default", "graphs"] = Field(
        default="auto",
        description="torch.compile: off, default, graphs (CUDA graphs), or auto: the fastest that works on a GPU.",
    )
    steps_per_epoch: int = Field(
        default=0,
        ge=0,
        description="Number of steps per epoch; 0: one window per case, at least 50 steps and a fiftieth of all steps.",
    )
    max_minutes: float = Field(default=0, ge=0, description="End after this much training time [minutes]; 0: no limit.")
    batch_size: int = Field(default=2, ge=1, description="Number of windows per step, over all ranks together.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Compute the windows of a step in this many parts, one after the other: less memory.",
    )
    ranks: int = Field(
        default=1, ge=0, description="Number of processes that share a step, one per GPU; 0: as many as there are GPUs."
    )
    folds: int = Field(default=5, ge=2, description="Number of cross-validation folds, grouped by patient.")
    fold_seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the division into folds; the same for every run of a study, whatever its seed.",
    )
    fold: int = Field(default=0, ge=0, description="Fold used for validation, counted from 0.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="fp32, bf16, or auto: bf16 on CUDA, else fp32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="cpu, cuda, or auto: CUDA if available, else CPU."
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads of torch per rank; 0: all cores, shared by the ranks."
    )
    prepare_mib: int = Field(
        default=0, ge=0, description="Memory for preparing missing cases [MiB]; 0: half of the available memory."
    )
    checkpoint_minutes: float = Field(default=10, gt=0, description="Longest time between checkpoints [minutes].")
    deterministic: bool = Field(
        default=True, description="Use repeatable kernels, so that a resumed run gives exactly the same result."
    )
    tensorboard: bool = Field(default=True, description="Also write TensorBoard events, if TensorBoard is installed.")


class RunConfig(_Section):
    """All settings of a training."""

    recipe: Literal["plain", "lesions"] = Field(
        default="plain",
        description="Settings to start from: plain (the defaults listed here), or lesions, tuned on small lesions.",
    )
    seed: int = Field(default=0, ge=0, description="Random seed.")
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    init: InitConfig = InitConfig()
    validation: ValidationConfig = ValidationConfig()
    train: TrainConfig = TrainConfig()


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Return the default and description of every setting by its dotted key, in order.

    Example:
        >>> config_keys()["optim.lr"][0]
        0.0004
    """
    keys: dict[str, tuple[Any, str]] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= config_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys[prefix + name] = (field.default, field.description or "")
    return keys


def _parse_assignment(text: str) -> tuple[list[str], Any]:
    key, sep, raw = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"{text!r} is not a setting", remedy="write section.key=value, e.g. optim.lr=1e-4")
    try:
        value: Any = json.loads(raw)
    except json.JSONDecodeError:
        value = raw.strip()
    return key.strip().split("."), value


def resolve_config(
    toml_path: PathLike | None = None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve a run's configuration: defaults < base < recipe and preset < TOML < settings.

    Args:
        toml_path: A TOML file with the sections of :class:`RunConfig`.
        settings: ``section.key=value`` strings, as given on the command line.
        base: A nested mapping to start from, e.g. the configuration of the run that is continued.

    Returns:
        The validated configuration. A recipe and a model preset change nothing that the TOML file or `settings` set.

    Raises:
        ConfigError: A key is unknown or a value is impossible. The message names every error.
        FileNotFoundError: The TOML file does not exist.

    Example:
        >>> resolve_config(settings=["model.preset=small", "train.steps=100"]).model.hidden_size
        192
    """
    data: dict[str, Any] = {}
    _add(data, json.loads(json.dumps(base)) if base else {})
    loaded: dict[str, Any] = {}
    if toml_path is not None:
        path = Path(toml_path)
        try:
            loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"not TOML ({error})", path=path) from None
    assigned: dict[str, Any] = {}
    for keys, value in map(_parse_assignment, settings):
        if len(keys) == 1:
            assigned[keys[0]] = value
        elif len(keys) == 2 and isinstance(assigned.setdefault(keys[0], {}), dict):
            assigned[keys[0]][keys[1]] = value
        else:
            raise ConfigError(
                f"{'.'.join(keys)}: unknown key", remedy="see all keys with patchcore train --list-settings"
            )
    _add(data, _with_choices(loaded, assigned))
    for section, values in assigned.items():
        before = data.get(section)
        data[section] = before | values if isinstance(before, dict) and isinstance(values, dict) else values
    without_unetr(data, loaded, assigned)
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("preset"), str):
        data["model"] = MODEL_PRESETS.get(model["preset"], {}) | model
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            explain(error, RunConfig), remedy="see all keys with patchcore train --list-settings"
        ) from None
    if config.model.hidden_size % config.model.num_heads:
        raise ConfigError(
            f"model.num_heads {config.model.num_heads} does not divide model.hidden_size {config.model.hidden_size}"
        )
    _check_flexible(config)
    if config.train.fold >= config.train.folds:
        raise ConfigError(f"train.fold {config.train.fold} must be below train.folds {config.train.folds}")
    check_shares(config.train, config.train.ranks)
    return config


def _check_flexible(config: RunConfig) -> None:
    """Check the settings of a flexible network that do not depend on the plan."""
    model = config.model
    shares = model.patch_size_shares
    sizes = [patch_triple(size) for size in model.patch_sizes]
    if repeated := [size for size, count in Counter(sizes).items() if count > 1]:
        raise ConfigError(f"model.patch_sizes names the patch size {repeated[0]} twice", remedy="name each size once")
    for name in ("base_patch_size", "embedding", "kernels"):
        if len(sizes) < 2 and getattr(model, name) != ModelConfig.model_fields[name].default:
            raise ConfigError(
                f"model.{name} is for a network of several patch sizes, and model.patch_sizes does not name several",
                remedy=f"set model.patch_sizes, e.g. to [8,12,16,24], or leave out model.{name}",
            )
    proper = all(0 <= share < math.inf for share in shares) and (not shares or sum(shares) > 0)
    if shares and (len(shares) != len(model.patch_sizes) or not proper):
        raise ConfigError(
            f"model.patch_size_shares {list(shares)} does not fit model.patch_sizes {list(model.patch_sizes)}",
            remedy="give one share per patch size, at least one of them above 0",
        )
    for name, used in (("patch_sizes", bool(model.patch_sizes)), ("tokenizer", model.tokenizer != "linear")):
        if used and model.network != "unetr":
            raise ConfigError(
                f"model.{name} is for unetr, not for {model.network}", remedy="leave out one of the two settings"
            )
    if model.tokenizer != "linear" and model.embedding != "own":
        raise ConfigError(
            f"a {model.tokenizer} tokenizer cannot be resampled to another patch size: "
            f"model.embedding is {model.embedding}",
            remedy="set model.embedding=own",
        )
    if model.patch_sizes and config.train.compile == "graphs":
        raise ConfigError(
            "train.compile=graphs cannot be combined with model.patch_sizes: a graph has one patch size",
            remedy="set train.compile=default",
        )
    for size in (*model.patch_sizes, *([] if model.base_patch_size is None else [model.base_patch_size])):
        upsampling_factors(size)


def check_shares(train: TrainConfig, ranks: int) -> None:
    """Check that a step can be shared by several processes, and its windows evenly.

    Args:
        train: Batch size, parts of a step and compilation are used.
        ranks: Number of processes; 0: one per GPU, so it is not known yet.

    Raises:
        ConfigError: The batch size is not a multiple of ranks × parts, or a captured graph would be shared.
    """
    if train.compile == "graphs" and (train.accumulate > 1 or ranks != 1):
        raise ConfigError(
            "train.compile=graphs cannot be combined with train.accumulate or several ranks: gradients of a captured "
            "graph cannot be accumulated",
            remedy="set train.compile=default",
        )
    ranks = max(1, ranks)
    parts = ranks * train.accumulate
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size {train.batch_size} cannot be divided among {ranks} ranks × {train.accumulate} parts",
            remedy=f"set train.batch_size to a multiple of {parts}",
        )


def check_launched(train: TrainConfig, by: Launched) -> None:
    """Check that a training can be shared by the processes of a launcher.

    Raises:
        ConfigError: ``train.ranks`` is another number than that of the processes; or as for :func:`check_shares`.
    """
    if train.ranks not in (0, 1, by.world):
        raise ConfigError(
            f"train.ranks is {train.ranks}, but {by.by} has started {by.world} processes",
            remedy="leave train.ranks out: each process of the launcher is one rank",
        )
    check_shares(train, by.world)


def _with_choices(loaded: Mapping[str, Any], assigned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a TOML file with the recipe and the preset of the command line.

    Both stand for many settings, and what a user has set in the file comes after them.
    """
    layer = dict(loaded)
    if "recipe" in assigned:
        layer["recipe"] = assigned["recipe"]
    model, ours = layer.get("model", {}), assigned.get("model")
    if isinstance(ours, Mapping) and "preset" in ours and isinstance(model, Mapping):
        layer["model"] = {**model, "preset": ours["preset"]}
    return layer


def _add(data: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Overwrite settings by those of a layer: its recipe first, then each of its settings."""
    if isinstance(layer.get("recipe"), str):
        change_recipe(data, layer["recipe"])
    for section, values in layer.items():
        if not (isinstance(values, dict) and isinstance(data.get(section, {}), dict)):
            data[section] = values
            continue
        before = data.get(section, {})
        if section == "model" and "preset" in values:
            # A new preset removes the sizes of the earlier one.
            before = {key: value for key, value in before.items() if key not in MODEL_PRESETS["base"]}
        data[section] = before | values
