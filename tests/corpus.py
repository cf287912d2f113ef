"""Hold every file of a folder to one rule: an exit code, one clear message, no traceback, bounded time and memory.

    python tests/corpus.py FOLDER [FOLDER …]

Each file is checked alone with ``patchcore check``: as a label map, as an image with itself as label map, and as a
DICOM archive of one file. Then each whole folder is checked, and a list is proposed for it. Files run in child
processes with limits on address space and processor time; if a child dies, the file that killed it is named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from children import batches, limit_processor_time
from commands import patchcore, patchcore_here

MEMORY = 6 << 30
"""Limit of the address space of a child process [bytes]; libraries and threads take 1 GiB."""
SECONDS = 60
"""Limit of the processor time per file [s]."""
BATCH = 40
CODES = (0, 1, 2, 3)


def files_below(folder: Path) -> list[Path]:
    """Return every regular file below a folder; the folder of version control is skipped."""
    found = []
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name != ".git")
        found += [Path(place) / name for name in sorted(names)]
    return [path for path in found if path.is_file()]


def broken_rule(code: int, out: str, error: str, *, as_json: bool) -> str | None:
    """Say which part of the rule the outcome of a command breaks; None if it keeps all."""
    errors = [line for line in error.splitlines() if line.startswith("error:")]
    if code not in CODES:
        return f"exit code {code}"
    if "Traceback" in error or "Traceback" in out:
        return "a traceback"
    if code in (1, 2) and len(errors) != 1:
        return f"{len(errors)} error messages for exit code {code}: {error[-300:]}"
    if code in (1, 2) and "Error: " in errors[0] and "(" not in errors[0]:
        return f"the name of an exception in the message: {errors[0][:300]}"
    if code in (0, 3) and as_json:
        for case in json.loads(out)["cases"]:
            if case["status"] in ("quarantined", "held") and not (case["reason"] and case["remedy"]):
                return f"a case without reason or remedy: {case['case_id']}"
    return None


def ways(path: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield data sets that hold the file alone, under a name that makes it a volume."""
    from patchcore.datasets.layouts import volume_stem

    name = path.name
    if volume_stem(name) is None:
        # Under a name that makes it a volume, compressed or not.
        with path.open("rb") as handle:
            name += ".nii.gz" if handle.read(2) == b"\x1f\x8b" else ".nii"
    for way, folders in (("label", ("labels",)), ("pair", ("images", "labels"))):
        root = work / way
        for folder in folders:
            (root / folder).mkdir(parents=True)
            (root / folder / name).symlink_to(path)
            partner = _partner(path)
            if partner is not None:
                (root / folder / partner.name).symlink_to(partner)
        yield way, root
    root = work / "dicom"
    root.mkdir()
    (root / path.name).symlink_to(path)
    yield "dicom", root


def _partner(path: Path) -> Path | None:
    """Return the other half of an .hdr/.img pair."""
    for one, other in ((".hdr", ".img"), (".img", ".hdr")):
        if path.name.lower().endswith((one, f"{one}.gz")):
            stem = path.name[: path.name.lower().rindex(one)]
            for name in (f"{stem}{other}", f"{stem}{other}.gz"):
                if (path.parent / name).exists():
                    return path.parent / name
    return None


def one_file(path: Path, work: Path) -> list[str]:
    """Check one file in every way; return the broken rules, and print the outcomes."""
    broken = []
    for way, root in ways(path, work):
        options = ["--layout", "dicom"] if way == "dicom" else []
        done = patchcore_here("check", root, "--json", *options)
        code, out, error = done.returncode, done.stdout, done.stderr
        print(f"end {way} {code}", flush=True)
        problem = broken_rule(code, out, error, as_json=True)
        if problem is not None:
            broken.append(f"{way}: {problem}")
    return broken


def child(listed: Path, start: int, stop: int) -> int:
    """Check the files `start` to `stop` of a list."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    paths = [Path(line) for line in listed.read_text(encoding="utf-8", errors="surrogateescape").split("\n")]
    for number in range(start, stop):
        print(f"at {number}", flush=True)
        limit_processor_time(SECONDS)
        work = Path(tempfile.mkdtemp())
        try:
            for problem in one_file(paths[number], work):
                print(f"bad {problem}".replace("\n", " "), flush=True)
        except BaseException:
            print("bad " + traceback.format_exc().replace("\n", " | ")[-1500:], flush=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return 0


def check_files(paths: list[Path], *, verbose: bool = True) -> tuple[Counter[str], list[str]]:
    """Check every file; return how often each outcome occurred, and what broke the rule."""
    ends: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "files"
        # A name with a line break cannot be listed.
        unlisted = [path for path in paths if "\n" in str(path) or "\r" in str(path)]
        failures += [f"{path!r}: a name with a line break cannot be checked" for path in unlisted]
        paths = [path for path in paths if path not in unlisted]
        listed.write_text("\n".join(map(str, paths)), encoding="utf-8", errors="surrogateescape")
        work = batches(
            lambda start, stop: [__file__, "--child", str(listed), str(start), str(stop)],
            0,
            len(paths),
            batch=BATCH,
            timeout_s=120 + 2 * SECONDS * BATCH,
        )
        for word, number, rest, errors in work:
            if word == "end":
                ends[rest] += 1
            elif word == "bad":
                failures.append(f"{paths[number]}: {rest}")
            elif word == "died":
                failures.append(f"{paths[number]}: ended the process with {rest}: {errors[-800:]}")
            elif verbose:
                print(f"{number} of {len(paths)} files, {len(failures)} broke the rule", flush=True)
    return ends, failures


def check_folder(folder: Path) -> list[str]:
    """Check a whole folder, and propose a list for it."""
    failures = []
    with tempfile.TemporaryDirectory() as work:
        for arguments in (["check", str(folder), "--json"], ["manifest", str(folder), "-o", f"{work}/cases.csv"]):
            done = patchcore(*arguments, timeout_s=3600)
            as_json = arguments[0] == "check"
            problem = broken_rule(done.returncode, done.stdout, done.stderr, as_json=as_json)
            print(f"{arguments[0]} {folder}: exit code {done.returncode}", flush=True)
            if problem is not None:
                failures.append(f"{arguments[0]} {folder}: {problem}")
    return failures


def main() -> int:
    """Check the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        return child(Path(given.child[0]), int(given.child[1]), int(given.child[2]))
    ends: Counter[str] = Counter()
    failures: list[str] = []
    count = 0
    for folder in given.folders:
        paths = files_below(folder.resolve())
        count += len(paths)
        found, bad = check_files(paths)
        ends += found
        failures += bad + check_folder(folder.resolve())
    for failure in failures[:50]:
        print(failure)
    print(f"{count} files; outcomes by way and exit code: {dict(sorted(ends.items()))}; {len(failures)} broke the rule")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
