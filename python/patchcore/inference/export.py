"""Exports the network of a run as one file, and reads such files: weights, plan, settings, scores and hashes.

The file is a zip with a fixed list of members. Members are stored without compression, so a member is never larger than
the file; each is read by name into memory and compared with its hash. Nothing is unpickled, evaluated or extracted, and
no path in the file is followed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from torch import Tensor

from patchcore import _core
from patchcore.config import Plan, RunConfig, resolve_config
from patchcore.config.explain import first_line
from patchcore.config.postprocess import Postprocess, parse_postprocess
from patchcore.errors import CheckpointError, ConfigError, DataError, SchemaVersionError
from patchcore.files import finite, read_json, replace_atomically
from patchcore.inference.fixed import FixedModel, fixed_model, fixed_post
from patchcore.inference.opened import is_exported, is_onnx
from patchcore.models.checkpoint import Checkpoint, find_weights
from patchcore.runs.setup import read_setup
from patchcore.types import PathLike

__all__ = ["ExportedModel", "export_model", "read_model"]

MODEL_SCHEMA: Final = 1
_FORMAT: Final = "patchcore model"
_MANIFEST: Final = "model.json"
_WEIGHTS: Final = "weights.safetensors"
_PLAN: Final = "plan.json"
_CONFIG: Final = "config.json"
_CARD: Final = "README.md"
_POST: Final = "postprocess.json"
_MOST_JSON_BYTES: Final = 16 << 20
_REMEDY: Final = "copy the file again, or export the run again"


@dataclass(frozen=True)
class ExportedModel:
    """A network in a file, with what is needed to predict with it.

    Attributes:
        path: The file.
        facts: Content of ``model.json``: run, step, version of patchcore, hashes.
        plan: The plan that the network was trained with.
        config: The settings of the training.
        weights: The weights by parameter name.
        post: What was chosen for its predictions by ``patchcore tune``; None if nothing was.
    """

    path: Path
    facts: Mapping[str, Any]
    plan: Plan
    config: RunConfig
    weights: Mapping[str, Tensor]
    post: Postprocess | None = None


def export_model(
    run: PathLike,
    out: PathLike,
    *,
    checkpoint: str | None = None,
    post: bool = True,
    patch_size: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the network of a run into one file that ``patchcore predict`` reads.

    Args:
        run: The run folder.
        out: The file to write. ``.zip``: weights, plan, settings and a model card, which ``patchcore predict`` reads
            with torch. ``.onnx``: the network with its plan, which it reads without torch.
        checkpoint: ``best`` or ``last``; default: best if it exists, else last.
        post: Whether the run's post-processing (``patchcore tune``) is exported with it, if it has one.
        patch_size: Export the fixed network of this patch size of a flexible network, ``8`` or ``8x8x4``. Default: a
            ``.zip`` holds the flexible network, an ``.onnx`` the fixed one of the plan's patch size.
        overwrite: Whether an existing file is replaced.

    Returns:
        The file.

    Raises:
        RunError: The path is not a run folder.
        CheckpointError: The run has no checkpoint, or it is damaged.
        MissingExtraError: onnx is not installed.
        ConfigError: The name ends in neither ``.zip`` nor ``.onnx``, or the network is the user's own code, which a
            file cannot hold.
        DataError: The file exists already.
        OSError: The file cannot be written.

    Example:
        >>> import patchcore as pc  # doctest: +SKIP
        >>> pc.export_model("study/runs/…", "model.zip")  # doctest: +SKIP
    """
    run, out = Path(run), Path(out)
    if not is_exported(out) and not is_onnx(out):
        raise ConfigError(
            f"{out.name!r} is not the name of a model", path=out, remedy="use a name that ends in .zip or .onnx"
        )
    if out.exists() and not overwrite:
        raise DataError("already exists", path=out, remedy="add --overwrite, or choose another name with -o")
    setup = read_setup(run)
    _check_own_code(setup.config, run)
    if is_onnx(out):
        from patchcore.inference.onnx_export import export_onnx

        return export_onnx(run, out, checkpoint=checkpoint, with_post=post, patch_size=patch_size)
    found = find_weights(run, checkpoint)
    weights = found.weights()
    model = FixedModel(setup.plan, setup.config, weights)
    if patch_size is not None:
        model = fixed_model(setup.plan, setup.config, weights, found.path, patch_size)
    chosen = fixed_post(run, setup.plan, weights, model) if post else None
    members = {
        _WEIGHTS: _weight_bytes(model.weights),
        _PLAN: _json(json.loads(model.plan.model_dump_json())),
        _CONFIG: _json(model.config.model_dump(mode="json")),
        _CARD: _card(run, found, model.plan, model.config, chosen).encode(),
    }
    if chosen is not None:
        members[_POST] = _json(chosen.model_dump(mode="json"))
    facts = {
        "format": _FORMAT,
        "schema_version": MODEL_SCHEMA,
        "patchcore_version": _core.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_id": run.name,
        "step": int(found.state.get("step", 0)),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {_MANIFEST: _json(facts), **members}.items():
            # A fixed time: equal models are equal files.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return out


def read_model(path: PathLike) -> ExportedModel:
    """Read an exported model and compare every part with its hash.

    Raises:
        CheckpointError: The file is not a model that patchcore exported, or a byte of it has changed.
        SchemaVersionError: A newer patchcore wrote it.
        OSError: The file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            facts = _manifest(path, archive)
            wanted = [_WEIGHTS, _PLAN, _CONFIG, *([_POST] if _POST in facts["files"] else [])]
            parts = {name: _member(path, archive, name, facts["files"]) for name in wanted}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"is not an exported model ({error})", path=path, remedy=_REMEDY) from None
    try:
        plan = Plan.model_validate_json(parts[_PLAN])
        config = resolve_config(base=json.loads(parts[_CONFIG]))
        weights = load(parts[_WEIGHTS])
        post = parse_postprocess(json.loads(parts[_POST]), path) if _POST in parts else None
    except SchemaVersionError:
        raise
    except (
        ValidationError, ConfigError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        reason = first_line(error)
        raise CheckpointError(f"cannot be read ({reason})", path=path, remedy=_REMEDY) from None
    _check_own_code(config, path)
    return ExportedModel(path, facts, plan, config, weights, post)


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        facts = json.loads(_bytes(path, archive, _MANIFEST, _MOST_JSON_BYTES))
        if facts["format"] != _FORMAT:
            raise ValueError
        version = int(facts["schema_version"])
        if not isinstance(facts["files"], dict) or not isinstance(facts.get("step", 0), int):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError("is not a model that patchcore exported", path=path, remedy=_REMEDY) from None
    if version > MODEL_SCHEMA:
        raise SchemaVersionError(
            f"was exported by a newer patchcore ({facts.get('patchcore_version')})",
            path=path,
            remedy="update patchcore",
        )
    return dict(facts)


def _member(path: Path, archive: zipfile.ZipFile, name: str, files: Mapping[str, Any]) -> bytes:
    """Return a part of the file after comparing it with its hash."""
    most = path.stat().st_size if name == _WEIGHTS else _MOST_JSON_BYTES
    content = _bytes(path, archive, name, most)
    known = files.get(name)
    expected = known.get("sha256") if isinstance(known, dict) else None
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{name} has changed since it was exported", path=path, remedy=_REMEDY)
    return content


def _bytes(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"has no {name}: it is not an exported model", path=path, remedy=_REMEDY) from None
    # The size comes from the file, so it is checked before memory is taken.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(most, path.stat().st_size):
        raise CheckpointError(f"{name} is not stored as patchcore stores it", path=path, remedy=_REMEDY)
    return archive.read(info)


def _check_own_code(config: RunConfig, path: Path) -> None:
    if ":" in config.model.network:
        raise ConfigError(
            f"the network is code of your own ({config.model.network}), which an exported model cannot hold",
            path=path,
            remedy="predict with the run folder where this code can be imported",
        )


def _weight_bytes(weights: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return bytes(save(dict(weights)))


def _json(value: Any) -> bytes:
    return (json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _card(run: Path, found: Checkpoint, plan: Plan, config: RunConfig, post: Postprocess | None) -> str:
    """Return the model card: what the network is for, what it was trained on, and how it scored."""
    target = plan.target
    lines = [
        f"# {run.name}",
        "",
        f"A {config.model.network} for CT, exported by patchcore {_core.__version__} after step "
        f"{found.state.get('step', 0)}.",
        "",
        f"- Classes: background, {', '.join(map(str, target.classes))}; the lesions have label {target.lesion_label}.",
        f"- Patch size {target.patch_size}, window {target.window_size} voxels, spacing {target.spacing} mm.",
        f"- HU range {target.hu_range}.",
    ]
    seen = run / "seen.json"
    if seen.exists():
        record = read_json(seen)
        trained, selected = (len(record.get(name, ())) for name in ("trained", "selected"))
        lines.append(f"- Trained on {trained} cases; {selected} others were used for selection.")
    best = found.state.get("best")
    if best:
        lines.append(
            f"- Best validation: mean DSC {best['dsc_mean']:.4f} at step {best['step']}, on the training grid; used "
            "for selection, so it is too high."
        )
    for report in sorted((run.parent.parent / "reports").glob(f"{run.name}*/evaluation.json")):
        scores = read_json(report)
        lines.append(
            f"- Evaluated on cases {scores.get('role')}: mean DSC {scores.get('mean_dsc')} (n = {scores.get('n')}), "
            "on the cases' own grids."
        )
    if post is not None:
        lines.append(f"- Post-processing: {post}.")
    lines += [
        "",
        "Predict with `patchcore predict MODEL.zip CT.nii.gz -o LABELS.nii.gz`. For research; not a medical device.",
        "",
    ]
    return "\n".join(lines)
