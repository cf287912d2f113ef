"""Write every number that patchcore computes on real data, to compare two versions bit by bit.

Usage: run ``python -m benchmarks.same_results write OUT.json --data FOLDER`` with each version, then
``python -m benchmarks.same_results compare BEFORE.json AFTER.json``. To run another checkout without installing it, set
PYTHONPATH to its ``python`` folder; its Rust core must be built there.

For ``lidc_nodules`` and ``sts`` the numbers come from the fingerprint, the lesion table, the plan, the prepared store
(SHA-256 of each array's voxels) and six training steps. For ``kits19_labels`` they come from the fingerprint, the
lesion table and the plan.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Keys that may differ between two runs of one version: times, paths and the version itself.
_FREE = {"created", "created_at", "dataset", "written", "patchcore_version", "version", "path", "root", "source"}
# Keys that are used to detect changed files.
_SOURCES = ("sources", "sha256", "content_hashes")
_TRAIN = (
    "--steps", "6", "--preset", "tiny", "--batch-size", "2", "--set", "train.threads=1", "--set", "train.ranks=1",
    "--set", "train.tensorboard=false", "--set", "validation.every_epochs=100000",
)  # fmt: skip


def _command(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "patchcore", *map(str, words)],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"patchcore {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")


def _flat(value: Any, name: str, found: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key in sorted(value):
            if key not in _FREE:
                _flat(value[key], f"{name}/{key}", found)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _flat(item, f"{name}/{number}", found)
    else:
        found[name] = value.hex() if isinstance(value, float) else repr(value)


def _store(study: Path, name: str, found: dict[str, str]) -> None:
    import numpy as np
    import zarr

    for place in sorted((study / "store.zarr").rglob("zarr.json")):
        about = json.loads(place.read_text(encoding="utf-8"))
        key = f"{name}/{place.parent.relative_to(study)}"
        _flat({key: value for key, value in about.items() if key != "attributes"}, key, found)
        attributes = about["attributes"].get("patchcore", {})
        _flat(
            {key: value for key, value in attributes.items() if key not in _SOURCES},
            f"{key}/patchcore",
            found,
        )
        if about["node_type"] == "array":
            voxels = np.asarray(zarr.open_array(place.parent, mode="r")[:])
            found[f"{key}/voxels"] = hashlib.sha256(voxels.tobytes()).hexdigest()
    for place in sorted((study / "store.zarr").rglob("*.npy")):
        found[f"{name}/{place.relative_to(study)}"] = hashlib.sha256(place.read_bytes()).hexdigest()


def _losses(study: Path, name: str, found: dict[str, str]) -> None:
    for place in sorted((study / "runs").glob("*/attempts/1/events.jsonl")):
        for line in place.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["kind"] == "metric" and event.get("step", 0) > 0:
                loss = event.get("values", event).get("train/loss")
                found[f"{name}/loss/{event['step']}"] = float(loss).hex()


def write(out: Path, data: Path) -> None:
    """Run analyze, plan, prepare and train, and write all numbers to `out` as one flat JSON object."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("kits19_labels", "sts", "lidc_nodules"):
            study = Path(folder) / name
            _command("analyze", data / name, study)
            window = ("--window", "48,48,16", "--candidates", "8,16") if name == "lidc_nodules" else ()
            _command("plan", study, *window)
            if name != "kits19_labels":
                _command("prepare", study)
                _command("train", study, *_TRAIN)
                _store(study, name, found)
                _losses(study, name, found)
            for part in ("fingerprint.json", "plan.json"):
                _flat(json.loads((study / part).read_text(encoding="utf-8")), f"{name}/{part}", found)
            with (study / "lesions.csv").open(newline="", encoding="utf-8") as handle:
                for number, row in enumerate(csv.reader(handle)):
                    found[f"{name}/lesions.csv/{number}"] = ",".join(row)
            print(f"{name}: {sum(key.startswith(name) for key in found):,} numbers so far", flush=True)
    out.write_text(json.dumps(found, indent=0, sort_keys=True), encoding="utf-8")


def _sentence(value: str | None) -> bool:
    """Whether a value is a text that people read: it is repr() of a string with a space."""
    return value is None or (value[:1] in "'\"" and " " in value)


def compare(before: Path, after: Path) -> int:
    """Print the first 100 numbers that differ and return how many differ. Sentences are only counted."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    apart = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    numbers = [key for key in apart if not (_sentence(old.get(key)) and _sentence(new.get(key)))]
    for key in numbers[:100]:
        print(f"{key}: {old.get(key)} → {new.get(key)}")
    print(
        f"{len(old):,} values before, {len(new):,} after; {len(numbers):,} numbers and "
        f"{len(apart) - len(numbers):,} sentences differ"
    )
    return len(numbers)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("out", type=Path)
    writing.add_argument("--data", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "write":
        write(given.out, given.data)
        return 0
    return 1 if compare(given.before, given.after) else 0


if __name__ == "__main__":
    sys.exit(main())
