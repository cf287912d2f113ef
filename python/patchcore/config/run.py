"""The configuration of a run: typed, documented, TOML in, resolved JSON out. Unknown keys are refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patchcore.config.explain import explain
from patchcore.errors import ConfigError
from patchcore.types import PathLike

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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """The network. Patch and window size come from the plan."""

    preset: Literal["tiny", "small", "base"] = Field(
        default="base", description="sizes to start from; base is UNETR as published"
    )
    hidden_size: int = Field(default=768, ge=8, description="width of a token")
    mlp_dim: int = Field(default=3072, ge=8, description="hidden width of a transformer MLP")
    num_heads: int = Field(default=12, ge=1, description="attention heads; divides hidden_size")
    feature_size: int = Field(default=16, ge=1, description="channels at full resolution")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in the transformer")
    network: str = Field(
        default="unetr", description="unetr, or one to compare with: patchcore models --networks; or module:callable"
    )
    checkpointing: bool = Field(
        default=False, description="compute activations anew in the backward pass: less memory, more time"
    )
    deep_supervision: bool = Field(default=False, description="also judge the coarser stages of the decoder")


class LossConfig(_Section):
    """Soft Dice plus cross-entropy."""

    batch_dice: bool = Field(
        default=False,
        description="Dice over all windows that are computed together, on all ranks, not over each window",
    )


class OptimConfig(_Section):
    """The optimiser, and its learning rate over the steps."""

    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd: with Nesterov momentum, as nnU-Net")
    momentum: float = Field(default=0.99, ge=0, lt=1, description="of sgd")
    lr: float = Field(default=4e-4, gt=0, description="peak learning rate; nnU-Net gives its sgd 1e-2")
    schedule: Literal["cosine", "polynomial"] = Field(default="cosine", description="how it falls after the warm-up")
    power: float = Field(default=0.9, gt=0, description="of the polynomial")
    min_lr_share: float = Field(default=0.01, ge=0, le=1, description="last learning rate as a share of lr")
    weight_decay: float | None = Field(
        default=None, ge=0, description="of matrices and kernels; None: 1e-2, decoupled, and of sgd 3e-5, not decoupled"
    )
    warmup_steps: int = Field(default=50, ge=0, description="steps of linear warm-up")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="validate and keep a moving average of the weights, e.g. 0.999; 0: none"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="gradient norm is clipped to this")


class SamplingConfig(_Section):
    """How training windows are drawn; see :mod:`patchcore.windows.extract`."""

    lesion_share: float = Field(default=0.5, ge=0, le=1, description="share of windows drawn around a lesion voxel")
    alpha: float = Field(default=0.5, ge=0, description="a case is drawn in proportion to lesions**alpha")
    organ_label: int = Field(default=0, ge=0, description="label, one of the plan's classes, of an organ; 0: none")
    organ_share: float = Field(default=0.0, ge=0, le=1, description="share of windows drawn around an organ voxel")
    lesion_free_share: float = Field(default=0.0, ge=0, le=1, description="share drawn in cases without lesions")
    hard_points: str = Field(
        default="", description="CSV of case_id,x_mm,y_mm,z_mm,weight: places to look at more often (world, RAS+)"
    )
    hard_share: float = Field(default=0.0, ge=0, le=1, description="share of windows drawn around those")
    cache_mib: int = Field(default=256, ge=0, description="decoded chunks kept in memory, MiB; 0: none")


class AugmentConfig(_Section):
    """How training windows are varied, on the batch's device. Shares are of the windows that something is done to."""

    flips: bool = Field(default=True, description="mirror windows at random along each axis")
    quarter_turns: bool = Field(
        default=True, description="turn by quarters between axes of equal spacing and window edge"
    )
    affine_share: float = Field(default=0.2, ge=0, le=1, description="share of windows rotated and scaled")
    rotate_degrees: float = Field(default=15.0, ge=0, le=180, description="± about each axis")
    zoom: float = Field(default=0.15, ge=0, lt=1, description="size, 1 ± this")
    noise_share: float = Field(default=0.1, ge=0, le=1, description="share of windows with Gaussian noise")
    noise: float = Field(default=0.05, ge=0, description="its largest deviation, share of hu_range")
    blur_share: float = Field(default=0.1, ge=0, le=1, description="share of windows blurred")
    blur: float = Field(default=1.0, ge=0, description="largest deviation of the Gaussian, finest voxels")
    low_resolution_share: float = Field(default=0.1, ge=0, le=1, description="share of windows made coarser and back")
    low_resolution: float = Field(default=0.5, gt=0, le=1, description="coarsest, share of the voxels along an axis")
    gamma_share: float = Field(default=0.2, ge=0, le=1, description="share of windows with another gamma")
    gamma: float = Field(default=0.3, ge=0, lt=1, description="exponent, between 1 / (1 + this) and 1 + this")
    hu_shift: float = Field(default=0.05, ge=0, description="random offset, ± share of hu_range")
    hu_scale: float = Field(default=0.1, ge=0, lt=1, description="random contrast, 1 ± this")


class InitConfig(_Section):
    """Where the first weights come from."""

    source: str = Field(default="", description="run folder, .safetensors or file of torch.save; empty: from scratch")
    part: Literal["all", "encoder"] = Field(default="all", description="encoder: the transformer alone")
    embedding: Literal["transposed", "pseudo-inverse"] = Field(
        default="transposed", description="how a patch embedding is brought to another patch size"
    )
    freeze_epochs: int = Field(default=0, ge=0, description="epochs in which the transformer stays as it was")


class ValidationConfig(_Section):
    """Whole volumes of the validation fold by sliding window."""

    every_epochs: int = Field(default=1, ge=1, description="validate after this many epochs")
    overlap: float = Field(default=0.5, ge=0, lt=1, description="overlap of neighbouring windows")
    mirror: bool = Field(
        default=False, description="average over windows mirrored along every axis: 8 times the work, a little better"
    )
    max_cases: int = Field(
        default=0,
        ge=0,
        description="validate a fixed subset of this many cases, all of them every whole_every times; 0: always all",
    )
    max_minutes: float = Field(
        default=0, ge=0, description="choose that subset so that a validation takes about this long; 0: no limit"
    )
    whole_every: int = Field(
        default=5, ge=1, description="every so many validations all cases, which alone choose the best checkpoint"
    )
    previews: int = Field(
        default=4, ge=0, description="cases drawn for the dashboard: half of them fixed, half the worst; 0: none"
    )


class TrainConfig(_Section):
    """Length, batch, folds and precision."""

    steps: int = Field(default=20_000, ge=1, description="optimiser steps")
    epochs: int = Field(default=0, ge=0, description="instead of steps: this many epochs; 0: as many as steps are")
    patience: int = Field(
        default=0, ge=0, description="end after this many validations of all cases without a better DSC; 0: never"
    )
    compile: Literal["off", "default", "graphs"] = Field(
        default="off", description="torch.compile for training steps; graphs: with CUDA graphs, on a GPU"
    )
    steps_per_epoch: int = Field(default=0, ge=0, description="0: as many as show each case once, at least 50")
    max_minutes: float = Field(default=0, ge=0, description="end after this many minutes of training; 0: no limit")
    batch_size: int = Field(default=2, ge=1, description="windows a step, over all ranks together")
    accumulate: int = Field(
        default=1, ge=1, description="parts that a step's windows are computed in, one after the other: less memory"
    )
    ranks: int = Field(
        default=1, ge=0, description="processes that share a step, one a GPU; 0: as many as there are GPUs"
    )
    folds: int = Field(default=5, ge=2, description="number of cross-validation folds, grouped by patient")
    fold: int = Field(default=0, ge=0, description="the fold that validates")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bf16 on CUDA, else fp32")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is one")
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0: all cores")
    checkpoint_minutes: float = Field(default=10, gt=0, description="longest time between checkpoints")
    deterministic: bool = Field(default=True, description="repeatable kernels, so that a resume is exact")
    tensorboard: bool = Field(default=True, description="also write TensorBoard's events, where it is installed")


class RunConfig(_Section):
    """Everything a training can be told."""

    seed: int = Field(default=0, ge=0, description="the one seed")
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    init: InitConfig = InitConfig()
    validation: ValidationConfig = ValidationConfig()
    train: TrainConfig = TrainConfig()


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Return every dotted key with its default and description, in order.

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
        raise ConfigError(f"{text!r} is no setting", remedy="write section.key=value, e.g. optim.lr=1e-4")
    try:
        value: Any = json.loads(raw)
    except json.JSONDecodeError:
        value = raw.strip()
    return key.strip().split("."), value


def resolve_config(
    toml_path: PathLike | None = None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve a run's configuration: defaults < base < TOML < settings.

    Args:
        toml_path: A TOML file with the sections of :class:`RunConfig`.
        settings: ``section.key=value`` strings, as given on the command line.
        base: A nested mapping to start from, e.g. the config of the run that is continued.

    Returns:
        The validated configuration. A model preset fills in the sizes that nothing else set.

    Raises:
        ConfigError: An unknown key or an impossible value; every finding is named.
        FileNotFoundError: There is no such TOML file.

    Example:
        >>> resolve_config(settings=["model.preset=small", "train.steps=100"]).model.hidden_size
        192
    """
    data: dict[str, Any] = json.loads(json.dumps(base)) if base else {}
    if toml_path is not None:
        path = Path(toml_path)
        try:
            loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"not TOML ({error})", path=path) from None
        for section, value in loaded.items():
            if isinstance(value, dict) and isinstance(data.get(section), dict):
                _overlay(data, section, value)
            else:
                data[section] = value
    # A preset fills in sizes, so it goes first wherever it was said: a size set beside it stays set.
    assignments = sorted((_parse_assignment(text) for text in settings), key=lambda a: a[0] != ["model", "preset"])
    for keys, value in assignments:
        if len(keys) == 1:
            data[keys[0]] = value
        elif len(keys) == 2 and isinstance(data.setdefault(keys[0], {}), dict):
            _overlay(data, keys[0], {keys[1]: value})
        else:
            raise ConfigError(f"{'.'.join(keys)}: unknown key", remedy="patchcore train --list-settings shows them all")
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("preset"), str):
        data["model"] = MODEL_PRESETS.get(model["preset"], {}) | model
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig), remedy="patchcore train --list-settings shows every key") from None
    if config.model.hidden_size % config.model.num_heads:
        raise ConfigError(
            f"model.num_heads {config.model.num_heads} does not divide model.hidden_size {config.model.hidden_size}"
        )
    if config.train.fold >= config.train.folds:
        raise ConfigError(f"train.fold {config.train.fold} must be below train.folds {config.train.folds}")
    if config.train.compile == "graphs" and (config.train.accumulate > 1 or config.train.ranks != 1):
        raise ConfigError(
            "train.compile=graphs goes with neither train.accumulate nor train.ranks: gradients of a captured graph "
            "cannot be added to",
            remedy="set train.compile=default",
        )
    check_shares(config.train, max(1, config.train.ranks))
    return config


def check_shares(train: TrainConfig, ranks: int) -> None:
    """See that a step's windows can be shared evenly by so many ranks and the parts that each computes them in.

    Raises:
        ConfigError: They cannot.
    """
    parts = ranks * train.accumulate
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size {train.batch_size} cannot be shared by {ranks} ranks in {train.accumulate} parts",
            remedy=f"set train.batch_size to a multiple of {parts}",
        )


def _overlay(data: dict[str, Any], section: str, values: dict[str, Any]) -> None:
    """Lay values over a section; a new model preset takes back the sizes that an older one filled in."""
    if section == "model" and "preset" in values:
        data[section] = {k: v for k, v in data[section].items() if k not in MODEL_PRESETS["base"]}
    data[section] = data[section] | values
