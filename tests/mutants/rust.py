"""Rust mutants: cargo-mutants makes them; cargo's tests run first, then pytest on a rebuilt core."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutants.operators import Mutant

AREAS = {
    "Rust: spans": ["scan.rs", "slab.rs", "decode.rs"],
    "Rust: components": ["components.rs"],
    "Rust: lesions": ["lesions.rs"],
    "Rust: sampler": ["sampler.rs"],
    "Rust: resampling": [
        "resample.rs", "resample/band.rs", "resample/sums.rs", "resample/array.rs", "resample/labels.rs",
        "prepare/labels.rs", "prepare/image.rs",
    ],
    "Rust: store": [
        "store/array.rs", "store/read.rs", "store/write.rs", "store/layout.rs", "store/decode.rs", "store/cache.rs",
    ],
}  # fmt: skip
"""The code that decides numbers, by area."""

_PROFILE = {"OPT_LEVEL": "1", "DEBUG": "0", "INCREMENTAL": "true"}

_ROOT = Path(__file__).resolve().parents[2]

PYTESTS = (
    "tests/unit/store", "tests/unit/resampling", "tests/unit/lesions", "tests/unit/windows", "tests/property",
)  # fmt: skip


def rust_mutants(root: Path) -> dict[str, list[Mutant]]:
    """Return cargo-mutants' mutants of the areas above; none where cargo-mutants is not installed."""
    found: dict[str, list[Mutant]] = {}
    for area, name in ((area, name) for area, names in AREAS.items() for name in names):
        path = f"rust/patchcore/src/{name}"
        try:
            listed = subprocess.run(
                ["cargo", "mutants", "--list", "--json", "--diff", "--file", path, "--package", "patchcore"],
                cwd=root, capture_output=True, check=True, text=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            print("cargo-mutants is missing: no Rust mutants")
            return {}
        source = (root / path).read_bytes()
        mutants = found.setdefault(area, [])
        equal: Counter[tuple[str, ...]] = Counter()
        for one in json.loads(listed.stdout):
            start, stop = (_offset(source, one["span"][end]) for end in ("start", "end"))
            before = source[start:stop].decode()
            # Equal changes of one file differ by their order.
            change = (one["genre"], before, one["replacement"])
            place = str(equal[change]) if equal[change] else ""
            equal[change] += 1
            line = one["span"]["start"]["line"]
            mutants.append(Mutant(path, line, one["genre"], start, stop, one["replacement"], before, place))
    return found


def _offset(source: bytes, place: dict[str, int]) -> int:
    """Return the byte offset of a line and a column, both from 1."""
    lines = source.splitlines(keepends=True)
    before = lines[place["line"] - 1].decode()[: place["column"] - 1]
    return sum(map(len, lines[: place["line"] - 1])) + len(before.encode())


def run_rust(checkout: Any, mutant: Mutant) -> dict[str, Any]:
    """Run cargo's tests on a mutant, and pytest on a core that was built from it if they pass.

    Raises:
        SystemExit: The tests fail without a mutant.
    """
    folder: Path = checkout.folder
    workspace = folder / "workspace"
    if not workspace.exists():
        workspace.mkdir()
        for name in ("Cargo.toml", "Cargo.lock", "rust"):
            subprocess.run(["cp", "-r", str(_ROOT / name), str(workspace / name)], check=True)
        words = _tested(checkout, workspace)
        if words != "survived":
            raise SystemExit(f"the tests fail on the core without a mutant ({words}): nothing can be learned")
    target = workspace / mutant.path
    original = (_ROOT / mutant.path).read_bytes()
    began = time.monotonic()
    target.write_bytes(mutant.apply(original))
    try:
        words = _tested(checkout, workspace)
    finally:
        target.write_bytes(original)
    seconds = round(time.monotonic() - began, 1)
    return {"id": mutant.identity, "mutant": str(mutant), "tests": 1, "outcome": words, "seconds": seconds}


def _tested(checkout: Any, workspace: Path) -> str:
    """Return the outcome of the tests on the core in a workspace."""
    folder: Path = checkout.folder
    target = folder.parent / f"target-{folder.name}"  # one per job
    # Each mutant is compiled twice, and its tests run for seconds: the time of the compiler counts.
    quick = {f"CARGO_PROFILE_{name}_{key}": value for name in ("TEST", "DEV") for key, value in _PROFILE.items()}
    env = os.environ | quick | {"CARGO_TARGET_DIR": str(target)}

    def cargo(*arguments: str, limit_s: float) -> int | None:
        try:
            return subprocess.run(
                ["cargo", *arguments], cwd=workspace, env=env, capture_output=True, check=False, timeout=limit_s
            ).returncode
        except subprocess.TimeoutExpired:
            return None

    if cargo("test", "--package", "patchcore", "--quiet", "--no-run", limit_s=1800):
        return "not compiled"
    code = cargo("test", "--package", "patchcore", "--quiet", limit_s=180)
    if code != 0:
        return "time-out" if code is None else "killed"
    if cargo("build", "--package", "patchcore-python", "--quiet", "--features", "pyo3/abi3-py311", limit_s=1800):
        return "not compiled"
    core = folder / "python/patchcore/_core.abi3.so"
    kept = core.read_bytes()
    try:
        core.write_bytes((target / "debug" / "lib_core.so").read_bytes())
        code = checkout.pytest("--timeout=0", *PYTESTS, limit_s=1800)
    finally:
        core.write_bytes(kept)
    return {None: "time-out", 0: "survived"}.get(code, "killed")
