"""Rust mutants: cargo-mutants makes them; cargo's tests run first, then pytest on a rebuilt core."""

from __future__ import annotations

import json
import os
import subprocess
import time
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
        for one in json.loads(listed.stdout):
            start, stop = (_offset(source, one["span"][end]) for end in ("start", "end"))
            before = source[start:stop].decode()
            mutants.append(
                Mutant(path, one["span"]["start"]["line"], one["genre"], start, stop, one["replacement"], before)
            )
    return found


def _offset(source: bytes, place: dict[str, int]) -> int:
    """Return the byte offset of a line and a column, both from 1."""
    lines = source.splitlines(keepends=True)
    before = lines[place["line"] - 1].decode()[: place["column"] - 1]
    return sum(map(len, lines[: place["line"] - 1])) + len(before.encode())


def run_rust(checkout: Any, coverage: dict[str, Any], mutant: Mutant) -> dict[str, Any]:
    """Run cargo's tests on a mutant, and pytest on a core that was built from it if they pass."""
    folder: Path = checkout.folder
    root = Path(__file__).resolve().parents[2]
    workspace = folder / "workspace"
    if not workspace.exists():
        workspace.mkdir()
        for name in ("Cargo.toml", "Cargo.lock", "rust"):
            source = root / name
            subprocess.run(["cp", "-r", str(source), str(workspace / name)], check=True)
    target = workspace / mutant.path
    original = (root / mutant.path).read_bytes()
    env = os.environ | {"CARGO_TARGET_DIR": str(folder.parent / "target")}
    result: dict[str, Any] = {"id": mutant.identity, "mutant": str(mutant), "tests": 1}
    began = time.monotonic()

    def outcome(words: str) -> dict[str, Any]:
        return result | {"outcome": words, "seconds": round(time.monotonic() - began, 1)}

    def cargo(*arguments: str, limit_s: float) -> int | None:
        try:
            return subprocess.run(
                ["cargo", *arguments], cwd=workspace, env=env, capture_output=True, check=False, timeout=limit_s
            ).returncode
        except subprocess.TimeoutExpired:
            return None

    target.write_bytes(mutant.apply(original))
    try:
        if cargo("test", "--package", "patchcore", "--quiet", "--no-run", limit_s=900):
            return outcome("not compiled")
        code = cargo("test", "--package", "patchcore", "--quiet", limit_s=180)
        if code != 0:
            return outcome("time-out" if code is None else "killed")
        library = "lib_core.so"
        if cargo("build", "--package", "patchcore-python", "--quiet", "--features", "pyo3/abi3-py311", limit_s=1800):
            return outcome("not compiled")
        [built] = (folder.parent / "target" / "debug").glob(library)
        core = folder / "python/patchcore/_core.abi3.so"
        kept = core.read_bytes()
        try:
            core.write_bytes(built.read_bytes())
            code = checkout.pytest("--timeout=0", *PYTESTS, limit_s=900)
        finally:
            core.write_bytes(kept)
        return outcome({None: "time-out", 0: "survived"}.get(code, "killed"))
    finally:
        target.write_bytes(original)
