"""Profiles training steps: the time of each part by the clock, the time of each operation by torch's profiler."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.config.plan import TargetPlan
from patchcore.errors import ConfigError, DataError
from patchcore.files import replace_atomically
from patchcore.models.device import Placement, place
from patchcore.models.flexible import draw_size
from patchcore.models.registry import build_network
from patchcore.models.unetr import at_each_size, flexible_sizes
from patchcore.runs.setup import divide_cases
from patchcore.store.prepare import PreparedCase, prepare_cases
from patchcore.study import Study
from patchcore.training.launch import plan_for
from patchcore.training.loader import training_windows
from patchcore.training.memory import step_footprint
from patchcore.training.network import compiled
from patchcore.training.optim import make_optimizer
from patchcore.training.ranks import Ranks
from patchcore.training.step import TrainingStep
from patchcore.training.validate import validate_cases
from patchcore.types import IntTriple, PathLike

__all__ = ["StepProfile", "ValidationTime", "profile_step"]

_WARM = 3
_OPERATIONS = 12
_MADE_AHEAD = "windows (loaded in advance, on a thread)"


@dataclass(frozen=True)
class ValidationTime:
    """Time of a validation.

    Attributes:
        seconds: Time of a validation of all cases of the fold [s], from a few of them.
        cases: Number of validation cases of the fold.
        training_cases: Number of the other cases.
    """

    seconds: float
    cases: int
    training_cases: int


@dataclass(frozen=True)
class StepProfile:
    """Measurements of one training step.

    Attributes:
        device: Name of the processor that ran the step.
        windows: Windows per step.
        step_s: Sum of the times of a step's parts [s], without loading the windows.
        trained_s: Time of a step in a training [s], which loads the next windows meanwhile: on a CPU the same cores do
            both, and the times add up; beside a GPU the longer of the two counts.
        parts: Time of each part per step [s], from the median of its measurements; of a flexible network, the mean over
            its patch sizes, by their shares.
        operations: (name, seconds per step, calls per step), the longest first.
        peak_bytes: Peak memory of torch on the GPU; None on a CPU.
        expected_bytes: Memory expected by :func:`patchcore.models.footprint.footprint`; None if it cannot be computed.
        compiled: Whether the network ran compiled, as ``train.compile`` asks.
        validation: Time of a validation; None: not measured.
        warnings: Messages about requests that could not be met.
    """

    device: str
    windows: int
    step_s: float
    trained_s: float
    parts: dict[str, float]
    operations: tuple[tuple[str, float, float], ...]
    peak_bytes: int | None
    expected_bytes: int | None
    compiled: bool
    validation: ValidationTime | None
    warnings: tuple[str, ...]


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hide the messages that torch's profiler writes directly to file descriptor 2. Errors are still raised."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def profile_step(
    study: Study | PathLike,
    *,
    settings: Sequence[str] = (),
    toml: PathLike | None = None,
    steps: int = 5,
    trace: PathLike | None = None,
    plan: Plan | None = None,
    validated: int = 0,
) -> StepProfile:
    """Run training steps of a study's plan and measure them. The training result is not kept.

    Args:
        study: The study. Cases that are not prepared yet are prepared first.
        settings: ``section.key=value``.
        toml: A TOML file of settings.
        steps: Number of measured steps; of a flexible network, at each patch size.
        trace: File for a trace of one step (JSON, for Perfetto or chrome://tracing); None: no trace.
        plan: The plan [default: the study's ``plan.json``].
        validated: Number of validation cases to predict, for the time of a validation; 0: it is not measured.

    Raises:
        PatchcoreError: The study has no plan, or no case to train on, or, with `validated`, too few patients for folds.
        ConfigError: An impossible setting, or several ranks: only one rank can be profiled.
    """
    study = study if isinstance(study, Study) else Study(study)
    config = resolve_config(toml, settings)
    if config.train.ranks > 1:
        raise ConfigError(
            f"train.ranks is {config.train.ranks}, but only one rank can be profiled", remedy="set train.ranks=1"
        )
    config = config.model_copy(update={"train": config.train.model_copy(update={"ranks": 1})})
    target, placement = plan_for(plan or study.plan(), config).target, place(config.train)
    cases = prepare_cases(study, target, study.accepted()).cases
    torch.manual_seed(config.seed)
    network = placement.network(build_network(target, config.model)).train()
    warnings: list[str] = []
    stepped = compiled(network, config.train, target, placement, warnings.append).network
    optimizer = make_optimizer(network, config.optim)
    source = training_windows(cases, config, target, placement)
    on_gpu = placement.device.type == "cuda"
    times: dict[str, list[float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        yield
        if on_gpu:
            torch.cuda.synchronize()
        times.setdefault(name, []).append(time.perf_counter() - began)

    make_step = TrainingStep(
        config,
        target,
        placement,
        network=network,
        stepped=stepped,
        optimizer=optimizer,
        ranks=Ranks(1, placement.device, study.path, 0),
        phase=timed,
    )

    def step(number: int) -> None:
        with timed(_MADE_AHEAD):
            batch = source.batch(number)
        make_step(batch, number, config.optim.lr)

    parts: dict[str, float] = {}
    for share, numbers in _steps_by_size(network, config):
        for number in itertools.islice(numbers, _WARM):
            step(number)
        if on_gpu and not parts:
            torch.cuda.reset_peak_memory_stats()
        times.clear()
        for number in itertools.islice(numbers, steps):
            step(number)
        for name, values in times.items():
            seconds = statistics.median(values) * len(values) / steps
            parts[name] = parts.get(name, 0.0) + share * seconds
    peak = torch.cuda.max_memory_allocated() if on_gpu else None

    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with _without_chatter(), torch.profiler.profile(activities=activities) as profiler:
        step(_WARM + steps)
    if trace is not None:
        with replace_atomically(trace) as temporary:
            profiler.export_chrome_trace(str(temporary))
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -float(getattr(row, attribute)))
    operations = tuple((str(r.key), float(getattr(r, attribute)) / 1e6, float(r.count)) for r in rows[:_OPERATIONS])
    expected_bytes: int | None = None
    try:
        expected = step_footprint(config, target, placement)
        expected_bytes = expected.step_bytes(config.train.batch_size // config.train.accumulate)
    except Exception as error:
        # A user's own network may not run on tensors without storage. The measured values are still returned.
        warnings.append(f"the expected memory of a step could not be computed ({type(error).__name__}: {error})")
    step_s = sum(seconds for name, seconds in parts.items() if name != _MADE_AHEAD)
    held_out = set(divide_cases(study, config).validation) if validated else set()
    validation = [case for case in cases if case.case_id in held_out]
    if validated and not validation:
        raise DataError(
            f"none of the {len(held_out)} validation cases of fold {config.train.fold} could be prepared",
            path=study.path,
            remedy="run patchcore inspect STUDY: it says why",
        )
    return StepProfile(
        device=str(placement.machine["processor"]),
        windows=config.train.batch_size,
        step_s=step_s,
        trained_s=max(step_s, parts[_MADE_AHEAD]) if on_gpu else step_s + parts[_MADE_AHEAD],
        parts=parts,
        operations=operations,
        peak_bytes=peak,
        expected_bytes=expected_bytes,
        compiled=stepped is not network,
        validation=ValidationTime(
            seconds=_validation_s(network, validation, config, target, placement, count=validated),
            cases=len(validation),
            training_cases=len(cases) - len(validation),
        )
        if validated
        else None,
        warnings=tuple(warnings),
    )


def _steps_by_size(network: nn.Module, config: RunConfig) -> list[tuple[float, Iterator[int]]]:
    """Return, for each patch size that steps draw, its share of them and their numbers; a fixed network has one."""
    sizes = flexible_sizes(network)
    if not sizes:
        return [(1.0, itertools.count())]
    shares = config.model.patch_size_shares or (1.0,) * len(sizes)

    def numbers(size: IntTriple) -> Iterator[int]:
        return (step for step in itertools.count() if draw_size(sizes, shares, config.seed, step) == size)

    return [(share / math.fsum(shares), numbers(size)) for size, share in zip(sizes, shares, strict=True) if share > 0]


def _validation_s(
    network: nn.Module,
    cases: Sequence[PreparedCase],
    config: RunConfig,
    target: TargetPlan,
    placement: Placement,
    *,
    count: int,
) -> float:
    """Return the time of a validation of all cases [s], from `count` of them, which are spread over the sizes."""
    by_size = sorted(cases, key=lambda case: math.prod(case.shape))
    count = min(count, len(by_size))
    # The middle one of each part: of one case the median, of three cases those at 1/6, 1/2 and 5/6.
    chosen = [by_size[(2 * number + 1) * len(by_size) // (2 * count)] for number in range(count)]
    views = list(at_each_size(network, target.patch_size).values()) or [network]
    began = time.perf_counter()
    for view in views:
        validate_cases(
            view, chosen, target, placement, overlap=config.validation.overlap, mirror=config.validation.mirror
        )
    return (time.perf_counter() - began) / count * len(cases)
