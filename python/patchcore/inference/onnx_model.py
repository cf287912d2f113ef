"""Reads ONNX models that patchcore exported, and predicts with onnxruntime: without torch.

The file holds a network with a static window, and the plan and settings in its metadata. It is read into memory, so
that onnxruntime opens no other file that it may name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from patchcore.config.explain import first_line
from patchcore.config.plan import Plan
from patchcore.config.postprocess import parse_postprocess
from patchcore.errors import CheckpointError, ConfigError, DataError, MissingExtraError, SchemaVersionError
from patchcore.inference.opened import ModelSource, OpenedModels
from patchcore.inference.segment import WindowModel, mirrored_axes
from patchcore.threads import core_count
from patchcore.types import Float32Array

__all__ = ["ONNX_FORMAT", "ONNX_INPUT", "ONNX_KEY", "ONNX_OUTPUT", "ONNX_SCHEMA", "open_onnx"]

ONNX_FORMAT: Final = "patchcore onnx"
ONNX_SCHEMA: Final = 1
ONNX_KEY: Final = "patchcore"
ONNX_INPUT: Final = "windows"
ONNX_OUTPUT: Final = "probabilities"

_REMEDY: Final = "export the run again with patchcore export RUN -o model.onnx"
# The limit of the format itself.
_MOST_BYTES: Final = 2 << 30
_WINDOWS_A_BATCH: Final = 4


def open_onnx(
    paths: Sequence[Path],
    *,
    device: str | None = None,
    overlap: float | None = None,
    mirror: bool | None = None,
    post: bool = True,
) -> OpenedModels:
    """Open ONNX models; see :func:`patchcore.inference.models.opened_models`. Each is run for itself."""
    sources, models, mirrored = [], [], False
    providers = _providers(device)
    for path in paths:
        session, facts, plan = _open(path, providers)
        used = str(session.get_providers()[0])
        if device == "cuda" and not used.startswith("CUDA"):
            raise ConfigError(
                "the device is cuda, but onnxruntime cannot use it",
                path=path,
                remedy="check that the CUDA and cuDNN versions fit onnxruntime-gpu, or use --device cpu",
            )
        settings = facts["validation"]
        mirrored = bool(settings["mirror"]) if mirror is None else mirror
        found = facts.get("post")
        sources.append(
            ModelSource(
                path,
                plan.target,
                str(facts["weights_sha256"]),
                int(facts["step"]),
                parse_postprocess(found, path) if post and found is not None else None,
            )
        )
        models.append(
            WindowModel(
                plan.target,
                _probabilities(session, mirror=mirrored),
                _WINDOWS_A_BATCH,
                float(settings["overlap"]) if overlap is None else overlap,
            )
        )
    return OpenedModels(tuple(models), tuple(sources), mirror=mirrored)


def _providers(device: str | None) -> list[str]:
    available = _onnxruntime().get_available_providers()
    cuda = "CUDAExecutionProvider"
    if device == "cuda" and cuda not in available:
        raise ConfigError(
            "the device is cuda, but onnxruntime has no CUDA provider",
            remedy="pip install onnxruntime-gpu, or use --device cpu",
        )
    use_cuda = cuda in available and device != "cpu"
    return [*([cuda] if use_cuda else []), "CPUExecutionProvider"]


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("ONNX models need onnxruntime", remedy="pip install 'patchcore[onnx]'") from None
    return onnxruntime


def _open(path: Path, providers: list[str]) -> tuple[Any, dict[str, Any], Plan]:
    runtime = _onnxruntime()
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError("is larger than 2 GiB, which no ONNX file is", path=path, remedy=_REMEDY)
    content = path.read_bytes()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = core_count()
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
        known = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
    except Exception as error:  # onnxruntime has exceptions of its own, without a common base class
        reason = first_line(error)
        raise CheckpointError(f"is not an ONNX model that can be read ({reason})", path=path, remedy=_REMEDY) from None
    if known is None:
        raise CheckpointError(
            "is an ONNX model of another tool: it has no plan of patchcore in its metadata", path=path, remedy=_REMEDY
        )
    try:
        facts = json.loads(known)
        if facts["format"] != ONNX_FORMAT:
            raise ValueError("another format")
        if int(facts["schema_version"]) > ONNX_SCHEMA:
            raise SchemaVersionError("was exported by a newer patchcore", path=path, remedy="update patchcore")
        plan = Plan.model_validate_json(json.dumps(facts["plan"]))
        float(facts["validation"]["overlap"]), bool(facts["validation"]["mirror"])
        str(facts["weights_sha256"]), int(facts["step"])
    except SchemaVersionError:
        raise
    except (ValueError, KeyError, TypeError, ValidationError, RecursionError, DataError) as error:
        reason = first_line(error)
        raise CheckpointError(f"has metadata that cannot be read ({reason})", path=path, remedy=_REMEDY) from None
    _check_shapes(path, session, plan)
    return session, facts, plan


def _check_shapes(path: Path, session: Any, plan: Plan) -> None:
    expected = [1, *plan.target.window_size]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    channels = 1 + len(plan.target.classes)
    fits = (
        [one.name for one in inputs] == [ONNX_INPUT]
        and [one.name for one in outputs] == [ONNX_OUTPUT]
        and list(inputs[0].shape[1:]) == expected
        and list(outputs[0].shape[1:]) == [channels, *plan.target.window_size]
    )
    if not fits:
        raise CheckpointError("does not fit the plan in its metadata", path=path, remedy=_REMEDY)


def _probabilities(session: Any, *, mirror: bool) -> Callable[[Float32Array], Float32Array]:
    flips = mirrored_axes(mirror=mirror)

    def probabilities(windows: Float32Array) -> Float32Array:
        batch = windows[:, None]
        total: Float32Array | None = None
        for axes in flips:
            turned = np.ascontiguousarray(np.flip(batch, axes))
            [found] = session.run([ONNX_OUTPUT], {ONNX_INPUT: turned})
            back = np.flip(found, axes)
            total = back.astype(np.float32) if total is None else total + back
        assert total is not None
        result: Float32Array = np.ascontiguousarray(total / np.float32(len(flips)))
        return result

    return probabilities
