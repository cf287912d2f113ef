"""Seeded fuzz test for the text files that patchcore reads, and for NIfTI files.

    python tests/fuzz_tables.py --count 10000

A mutated file must either be read, or be refused with a patchcore error or OSError. Any other exception, a warning, or
too much memory for the size of the file is a bug. The test prints the outcomes per reader.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from patchcore.config.plan import read_plan
from patchcore.datasets.layouts import find_cases
from patchcore.errors import PatchcoreError
from patchcore.study import Study
from patchcore.volumes.volume import read_image, read_label

TOKENS = (
    *(b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"0", b"-1", b"0.5", b"1e308", b"1e999", b"2e-308"),
    *(b"{}", b"[]", b"[[]]", b'""', b'"\\ud800"', b'"../../../x"', b"9" * 20, b"9" * 5000, b"[" * 3000),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b'"', b",", b";", b"\t", b"\r", b"\n", b"{", b"}"),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the data with random changes: flipped bits, inserted tokens, removed or copied parts, cuts."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, choice = rng.randrange(len(out) + 1), rng.randrange(6)
        if choice == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            out[at:at] = rng.choice(TOKENS)
        elif choice == 2:
            out[at : at + rng.randint(1, 20)] = rng.choice(TOKENS)
        elif choice == 3:
            del out[at : at + rng.randint(1, 60)]
        elif choice == 4:
            stretch = out[at : at + rng.randint(1, 60)]
            place = rng.randrange(len(out) + 1)
            out[place:place] = stretch
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Replace a random value in a JSON document by a value of another type, or remove a key."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.15:
            del changed[key]
        else:
            changed[key] = mutated_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        return [*value[:index], mutated_value(value[index], rng), *value[index + 1 :]]
    return rng.choice([None, True, -1, 0, 1e300, 10**400, "", "x", [], {}, [None], {"a": 1}, float("nan"), "\ud800"])


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Mutate bytes, or with the same probability a JSON value. In a file of JSON lines, mutate one line."""
    if rng.random() < 0.5:
        return mutated(data, rng)
    lines = data.splitlines()
    try:
        changed = json.dumps(mutated_value(json.loads(data), rng))
        return changed.encode()
    except ValueError:
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(mutated_value(json.loads(lines[index]), rng)).encode()
        return b"\n".join(lines) + b"\n"


def _write_dataset(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(3):
        label = np.zeros((24, 24, 16), np.uint8)
        label[4 + n : 12, 5:9, 3:7] = label[18, 18, 12] = 1
        image = (rng.normal(40, 10, label.shape) + 60 * label).astype(np.int16)
        for name, array in (("images", image), ("labels", label)):
            path = folder / name / f"case_{n}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            volume = nibabel.Nifti1Image(array, np.diag([0.8, 0.7, 2.5, 1.0]))
            volume.header.set_xyzt_units("mm")
            nibabel.save(volume, path)


def _targets(root: Path) -> dict[str, tuple[Path, Callable[[], object], Callable[[bytes, random.Random], bytes]]]:
    """Return, per name, a file made by patchcore, the function that reads it, and the function that mutates it."""
    import patchcore as pc

    dataset, study = root / "dataset", root / "study"
    _write_dataset(dataset)
    pc.analyze(dataset, study)
    pc.plan_patch_size(study)
    tables = root / "tables"
    shutil.copytree(dataset, tables)
    rows = ["case_id,image,label,patient,split"]
    rows += [f"c{n},images/case_{n}.nii.gz,labels/case_{n}.nii.gz,p{n}," for n in range(3)]
    (tables / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    names = {"labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}
    declared = root / "declared"
    shutil.copytree(dataset, declared)
    (declared / "dataset.json").write_text(json.dumps(names | {"numTraining": 2}), encoding="utf-8")
    return {
        "study.json": (study / "study.json", lambda: Study(study), mutated_json),
        "cases.jsonl": (study / "cases.jsonl", lambda: Study(study).cases(), mutated_json),
        "decisions.json": (study / "decisions.json", lambda: Study(study).decisions(), mutated_json),
        "fingerprint.json": (study / "fingerprint.json", lambda: Study(study).fingerprint(), mutated_json),
        "plan.json": (study / "plan.json", lambda: read_plan(study / "plan.json"), mutated_json),
        "manifest.csv": (tables / "manifest.csv", lambda: find_cases(tables), mutated),
        "dataset.json": (declared / "dataset.json", lambda: find_cases(declared), mutated_json),
    }


def fuzz_tables(count: int, seed: int) -> Counter[str]:
    """Mutate and read `count` tables. Raises AssertionError at the first bug."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        targets = _targets(Path(folder))
        intact = {name: path.read_bytes() for name, (path, _, _) in targets.items()}
        for case in range(count):
            rng = random.Random(seed + case)
            name = rng.choice(sorted(targets))
            path, read, mutate = targets[name]
            data = mutate(intact[name], rng)
            path.write_bytes(data)
            outcomes[f"{name}: {_outcome(read, data, seed + case)}"] += 1
            path.write_bytes(intact[name])
    return outcomes


def _outcome(read: Callable[[], object], data: bytes, seed: int) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
    except (PatchcoreError, OSError) as error:
        if not str(error).strip():
            raise AssertionError(f"seed {seed}: an error without a message") from error
        return "refused"
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__} {error} from {data[:300]!r}…") from error
    return "read"


def _image_file(rng: random.Random) -> tuple[bytes, bool]:
    dtype = rng.choice(["u1", "i2", "f4", "f8", "u2", "i4"])
    array = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 3, (6, 5, 4)).astype(dtype)
    kind = rng.choice([nibabel.Nifti1Image, nibabel.Nifti2Image])
    plain = kind(array, np.diag([0.7, 0.8, 2.5, 1.0])).to_bytes()
    return plain, rng.random() < 0.5


def _damaged_volume(plain: bytes, zipped: bool, rng: random.Random) -> bytes:
    out = bytearray(plain)
    if not zipped or rng.random() < 0.6:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(out), 560)) if rng.random() < 0.8 else rng.randrange(len(out))
            width = rng.choice([1, 1, 2, 4, 8])
            value = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f\xff" * 4, b"\0\0\x80\x7f" * 2, rng.randbytes(8)])
            out[at : at + width] = value[:width]
        if rng.random() < 0.1:
            del out[rng.randrange(len(out)) :]
        return gzip.compress(bytes(out)) if zipped else bytes(out)
    packed = bytearray(gzip.compress(plain))
    for _ in range(rng.randint(1, 3)):
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.2:
        del packed[rng.randrange(len(packed)) :]
    return bytes(packed)


def fuzz_images(count: int, seed: int) -> Counter[str]:
    """Mutate `count` NIfTI files, and read each one as an image or as a label map."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for case in range(count):
            rng = random.Random(seed + case)
            plain, zipped = _image_file(rng)
            data = _damaged_volume(plain, zipped, rng)
            path = Path(folder) / ("v.nii.gz" if zipped else "v.nii")
            path.write_bytes(data)
            read = rng.choice([read_image, read_label])
            tracemalloc.start()
            outcome = _outcome(lambda path=path, read=read: read(path), data, seed + case)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > 1 << 22:
                raise AssertionError(f"seed {seed + case}: {peak} bytes of memory used for a file of {len(data)} bytes")
            outcomes[f"{read.__name__}: {outcome}"] += 1
    return outcomes


def main() -> int:
    """Run both fuzz tests and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for what, fuzz, count in (("tables", fuzz_tables, given.count), ("images", fuzz_images, given.images)):
        start = time.perf_counter()
        outcomes = fuzz(count, given.seed)
        print(f"{count} mutated {what} in {time.perf_counter() - start:.0f} s")
        for name in sorted(outcomes):
            print(f"  {name:<28} {outcomes[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
