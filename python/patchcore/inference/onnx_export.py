"""Exports the network of a run as ONNX, which predicts without torch, and compares both before the file is written."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchcore import _core
from patchcore.config.explain import first_line
from patchcore.config.plan import TargetPlan
from patchcore.config.postprocess import Postprocess
from patchcore.config.run import RunConfig
from patchcore.errors import CheckpointError, ConfigError, MissingExtraError
from patchcore.files import replace_atomically
from patchcore.inference.fixed import fixed_model, fixed_post
from patchcore.inference.onnx_model import ONNX_FORMAT, ONNX_INPUT, ONNX_KEY, ONNX_OUTPUT, ONNX_SCHEMA
from patchcore.inference.tuned import weights_digest
from patchcore.models.checkpoint import fill_network, find_weights
from patchcore.models.registry import build_network
from patchcore.runs.setup import read_setup

__all__ = ["export_onnx"]

MOST_DIFFERENCE = 1e-3
"""Largest difference of a probability between both forms of a network [of 1]; float32 gives about 1e-5."""


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        return torch.softmax(self.network(windows).float(), dim=1)


def export_onnx(
    run: Path, out: Path, *, checkpoint: str | None = None, with_post: bool = True, patch_size: str | None = None
) -> Path:
    """Write the network of a run as ONNX. The window is static, the number of windows may vary.

    Raises:
        CheckpointError: The run has no checkpoint, or the exported network gives other probabilities.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OSError: The file cannot be written.
    """
    setup = read_setup(run)
    found = find_weights(run, checkpoint)
    fixed = fixed_model(setup.plan, setup.config, found.weights(), found.path, patch_size)
    network = build_network(fixed.plan.target, fixed.config.model)
    fill_network(network, fixed.weights, found.path)
    probabilities = _Probabilities(network).eval()
    model = _model(probabilities, fixed.plan.target)
    entry = model.metadata_props.add()
    entry.key = ONNX_KEY
    post = fixed_post(run, setup.plan, found.weights(), fixed) if with_post else None
    weights = weights_digest(fixed.weights)  # each patch size of a flexible network is a model of its own
    facts = _facts(run, json.loads(fixed.plan.model_dump_json()), fixed.config, weights, post)
    entry.value = json.dumps(facts | {"step": int(found.state.get("step", 0))}, allow_nan=False)
    try:
        content = model.SerializeToString()
    except ValueError:
        raise ConfigError("the network is larger than 2 GiB, the limit of ONNX", remedy="export it as .zip") from None
    _compare(probabilities, content, fixed.plan.target, run)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out) as temporary:
        temporary.write_bytes(content)
    return out


def _facts(run: Path, plan: Any, config: RunConfig, weights: str, post: Postprocess | None) -> dict[str, Any]:
    return {
        "format": ONNX_FORMAT,
        "schema_version": ONNX_SCHEMA,
        "patchcore_version": _core.__version__,
        "run_id": run.name,
        "weights_sha256": weights,
        "plan": plan,
        "validation": {"overlap": config.validation.overlap, "mirror": config.validation.mirror},
        "post": None if post is None else post.model_dump(mode="json"),
    }


def _model(network: nn.Module, target: TargetPlan) -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"export to ONNX needs {error.name}", remedy="pip install 'patchcore[onnx-export]'"
        ) from None
    # A batch of one would be taken for a constant.
    example = torch.zeros(2, 1, *target.window_size)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[ONNX_INPUT],
                output_names=[ONNX_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter has exceptions of its own, and passes on those of what it calls
        raise ConfigError(
            f"torch could not export this network to ONNX ({first_line(error)})", remedy="export it as .zip"
        ) from None
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    return program.model_proto


def _compare(network: nn.Module, content: bytes, target: TargetPlan, run: Path) -> None:
    """Compare the probabilities of both forms on windows of noise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3):
        windows = torch.rand(count, 1, *target.window_size, generator=generator)
        with torch.inference_mode():
            expected = network(windows).numpy()
        [given] = session.run([ONNX_OUTPUT], {ONNX_INPUT: windows.numpy()})
        difference = float(np.abs(expected - given).max())
        if not difference <= MOST_DIFFERENCE:
            raise CheckpointError(
                f"the exported network gives probabilities that differ by up to {difference:.2g}",
                path=run,
                remedy="export it as .zip, and report this with the versions of torch and onnxruntime",
            )
