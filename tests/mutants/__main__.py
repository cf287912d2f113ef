"""``python -m mutants``: makes a seeded sample of mutants and runs the tests that execute each changed line.

    PYTHONPATH=tests python -m mutants --sample 400

``results.jsonl`` beside this file has one line per mutant; a second call continues with the others. ``equivalent.txt``
lists mutants that change nothing that can be observed, each with the reason. Rust mutants are those of cargo-mutants.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from mutants.operators import Mutant, mutants_of
from mutants.rust import run_rust, rust_mutants

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "python/patchcore/"
LIMIT_S = 60.0
"""Seconds that the tests of a mutant may take longer than without it; then it counts as killed."""
FIRST_TESTS_S = 20.0
"""Of the tests that execute a line, the quickest are run first, up to about this time; then the others."""

AREAS = {
    "loss": ["training/loss.py"],
    "EMA, schedule, weight decay": ["training/optim.py"],
    "clipping, accumulation": ["training/step.py"],
    "selection": ["training/selection.py"],
    "patience, resume": ["training/progress.py", "training/loop.py", "training/state.py"],
    "sampler": ["windows/sampling.py", "training/loader.py"],
    "augmentation": ["training/augment.py"],
    "evaluation": ["evaluation/evaluate.py", "evaluation/rows.py", "evaluation/cases.py", "runs/seen.py"],
    "comparison": ["evaluation/compare.py", "evaluation/folds.py"],
    "lesion matching": [
        "metrics/lesions.py", "metrics/matching.py", "metrics/brats.py", "metrics/brats_tissues.py", "metrics/pair.py",
        "training/validate.py",
    ],
    "statistics": [
        "metrics/dice.py", "metrics/baselines.py", "metrics/statistics.py", "metrics/intervals.py", "metrics/regret.py",
        "metrics/score.py", "study/folds.py",
        "planning/bootstrap.py",
    ],
    "planning rules": ["planning/rules.py", "planning/joint.py", "planning/candidates.py", "planning/plan.py"],
    "transfer of weights": ["models/weights.py", "training/init_from.py", "models/checkpoint.py"],
    "tuning, FROC": [
        "evaluation/choose.py", "evaluation/tune.py",
        "metrics/froc.py", "inference/postprocess.py", "inference/segment.py", "lesions/spans.py",
    ],
}  # fmt: skip
"""The code that decides numbers, by area; the Rust code is in ``rust.py``."""

STRICT = ("loss", "EMA, schedule, weight decay", "selection", "evaluation")
"""No mutant may survive in these areas."""

TESTS = [
    "tests/unit/training", "tests/unit/metrics", "tests/unit/evaluation", "tests/unit/planning", "tests/unit/models",
    "tests/unit/windows", "tests/unit/inference", "tests/unit/lesions", "tests/unit/study",
    "tests/unit/runs/test_seen.py", "tests/peers",
    "tests/property/test_planning_property.py", "tests/property/test_windows_property.py",
    "tests/property/test_score_property.py", "tests/property/test_segment_property.py",
    *(f"tests/integration/test_{name}.py" for name in (
        "train", "train_options", "init_from", "predict", "regions", "honest_numbers", "torch_data", "ignore_label",
        "tune_command", "predict_inputs", "flexible_runs",
    )),
]  # fmt: skip


class Checkout:
    """A copy of the repository in which files are changed and tests are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists():
            shutil.rmtree(folder)
        for name in ("python", "tests", "benchmarks", "examples", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder / name)
        # Data beside the checkout are found beside the copy, too.
        if (ROOT.parent / "shared").exists() and not (folder.parent / "shared").exists():
            (folder.parent / "shared").symlink_to(ROOT.parent / "shared")
        self.paths = [str(folder / "python"), str(folder / "tests")]
        self.env = {"PYTHONPATH": os.pathsep.join(self.paths), "OMP_NUM_THREADS": "1"}

    def pytest(self, *arguments: str, limit_s: float | None = None, env: dict[str, str] | None = None) -> int | None:
        """Run pytest in a forked child and return its exit code; None if the time ran out.

        The child has torch and the like imported already, which takes longer than most tests; patchcore is imported by
        the child itself.
        """
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                os.chdir(self.folder)
                os.environ.update(self.env | (env or {}))
                sys.path[:] = [
                    *self.paths,
                    *(path for path in sys.path if path and not path.startswith(str(ROOT / "tests"))),
                ]
                nothing = os.open(os.devnull, os.O_RDWR)
                for number in range(3):
                    os.dup2(nothing, number)
                import pytest

                code = int(pytest.main([*_OPTIONS, *arguments]))
            except BaseException:
                code = 4
            finally:
                os._exit(code)
        deadline = time.monotonic() + (limit_s or 1e9)
        code: int | None = None
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            os.waitpid(child, 0)
        return code


_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
# Not hypothesis: pytest rewrites its assertions when it is imported.
_PRELOADED = (
    "torch", "monai.networks.nets", "nibabel", "scipy.ndimage", "scipy.stats", "safetensors.torch", "pydantic",
    "SimpleITK", "matplotlib.pyplot", "typer", "rich.live", "textual.app", "psutil",
)  # fmt: skip


def preload() -> None:
    """Import what the tests need, except patchcore itself."""
    for name in _PRELOADED:
        with suppress(ImportError):
            import_module(name)
    assert not any(name.split(".")[0] == "patchcore" for name in sys.modules)


def measured(out: Path, checkout: Checkout) -> dict[str, Any]:
    """Return which tests execute which lines; measured once for each state of the code and tests."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "python").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        if "mutants" not in path.parts:
            digest.update(path.read_bytes())
    file = out / f"coverage-{digest.hexdigest()[:12]}.json"
    if not file.exists():
        print("running the tests once to see which lines each of them executes", flush=True)
        code = checkout.pytest(
            "-p", "mutants.coverage_plugin", "--maxfail=1000", *TESTS,
            env={
                "PATCHCORE_COVERAGE_OF": str(checkout.folder / "python/patchcore"),
                "PATCHCORE_COVERAGE_OUT": str(file),
                "PATCHCORE_TEST_SCALE": "4",
            },
        )  # fmt: skip
        if not file.exists():
            raise SystemExit(f"the tests could not be measured (pytest ended with code {code})")
    if checkout.pytest("--timeout=0", "tests/unit/metrics", "tests/unit/training/test_step.py") != 0:
        raise SystemExit("the tests fail without a mutant: nothing can be learned from mutants")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def sample(mutants: dict[str, list[Mutant]], count: int, seed: int, per_module: int) -> list[tuple[str, Mutant]]:
    """Draw mutants: at least `per_module` of each Python file or Rust area, the rest in proportion to its mutants.

    The order is that of a hash of seed and identity. A change of the code then changes the sample only where the code
    has changed, so results stay valid.
    """

    def place(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.identity}".encode()).hexdigest()

    total = sum(map(len, mutants.values()))
    chosen: list[tuple[str, Mutant]] = []
    for path, found in mutants.items():
        wanted = max(per_module, round(count * len(found) / total))
        chosen += [(path, mutant) for mutant in sorted(found, key=place)[:wanted]]
    return sorted(chosen, key=lambda one: place(one[1]))


def known_equivalent() -> dict[str, str]:
    """Return identity → reason of the mutants that change nothing that can be observed."""
    path = Path(__file__).with_name("equivalent.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split(" ", 1) for line in lines if re.match(r"[0-9a-f]{12} ", line))


def run_python(checkout: Checkout, coverage: dict[str, Any], mutant: Mutant) -> dict[str, Any]:
    """Run the tests that execute the line of a mutant."""
    tests = coverage["tests"]
    numbers = coverage["lines"].get(mutant.path, {}).get(str(mutant.line), [])
    quick: list[tuple[str, float]] = []
    slow: list[tuple[str, float]] = []
    so_far_s = 0.0
    for name, seconds in sorted((tests[number] for number in numbers), key=lambda test: test[1]):
        so_far_s += seconds
        (slow if quick and so_far_s > FIRST_TESTS_S else quick).append((name, seconds))
    result: dict[str, Any] = {"id": mutant.identity, "mutant": str(mutant), "tests": len(numbers)}
    if not numbers:
        return result | {"outcome": "survived", "seconds": 0.0}
    target = checkout.folder / mutant.path
    source = target.read_bytes()
    began = time.monotonic()
    try:
        _forget_compiled(target)
        target.write_bytes(mutant.apply((ROOT / mutant.path).read_bytes()))
        code: int | None = 0
        for part in filter(None, (quick, slow)):
            expected_s = sum(seconds for _, seconds in part)
            names = [name for name, _ in part]
            code = checkout.pytest("--timeout=0", *names, limit_s=LIMIT_S + 3 * expected_s + 30)
            if code != 0:
                break
    finally:
        target.write_bytes(source)
        _forget_compiled(target)
    # 1: a test failed; 2 and 4: the tests, which exist, cannot be imported any more; negative: a crash.
    killed = code is not None and (code < 0 or code in (1, 2, 4))
    outcome = "killed" if killed else {None: "time-out", 0: "survived"}.get(code, "error")
    return result | {"outcome": outcome, "code": code, "seconds": round(time.monotonic() - began, 1)}


def _forget_compiled(path: Path) -> None:
    """Remove the compiled form of a module: within a second and at the same size, Python takes it for current."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def report(results: Iterable[dict[str, Any]], areas: dict[str, str]) -> int:
    """Print the share of killed mutants per area, and the survivors; return 1 if a bar is missed."""
    equivalent = known_equivalent()
    table: dict[str, Counter[str]] = {}
    survivors = []
    for result in results:
        area = areas.get(result["id"])
        if area is None:
            continue
        outcome = "equivalent" if result["id"] in equivalent and result["outcome"] == "survived" else result["outcome"]
        table.setdefault(area, Counter())[outcome] += 1
        if outcome == "survived":
            survivors.append((area, result))
    for area, counts in sorted(table.items()):
        tried = counts.total() - counts["equivalent"] - counts["not compiled"]
        killed = counts["killed"] + counts["time-out"]
        print(f"{area}: {killed} of {tried} killed ({counts['time-out']} by time), {counts['equivalent']} equivalent")
    totals = sum(table.values(), Counter())
    tried = totals.total() - totals["equivalent"] - totals["not compiled"]
    killed = totals["killed"] + totals["time-out"]
    print(f"all: {killed} of {tried} killed = {killed / max(1, tried):.1%}; {totals['equivalent']} equivalent")
    for area, result in survivors:
        print(f"survived: {result['id']} {area}: {result['mutant']} ({result['tests']} tests)")
    strict = [area for area, _ in survivors if area in STRICT]
    return int(killed < 0.95 * tried or bool(strict) or totals["equivalent"] > 0.05 * totals.total())


def main() -> int:
    """Run the mutants that have no result yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=400, help="number of mutants, Python and Rust together")
    parser.add_argument("--per-module", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / ".mutants", help="folder for copies and coverage")
    parser.add_argument("--area", action="append", help="only these areas")
    parser.add_argument("--again", action="store_true", help="run survivors again")
    parser.add_argument("--jobs", type=int, default=1, help="number of mutants that are run at the same time")
    parser.add_argument("--no-rust", action="store_true")
    parser.add_argument("--report", action="store_true", help="only print the results so far")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    areas = {
        PACKAGE + path: area for area, paths in AREAS.items() for path in paths if (ROOT / PACKAGE / path).exists()
    }
    mutants = {path: mutants_of(ROOT, path) for path in areas}
    rust = {} if arguments.no_rust else rust_mutants(ROOT)
    areas |= {area: area for area in rust}
    chosen = sample(mutants | rust, arguments.sample, arguments.seed, arguments.per_module)
    by_id = {mutant.identity: areas[path] for path, mutant in chosen}
    file = Path(__file__).with_name("results.jsonl")
    results = {}
    if file.exists():
        for line in file.read_text().splitlines():
            result = json.loads(line)
            results[result["id"]] = result
    if arguments.report:
        return report(results.values(), by_id)
    equivalent = known_equivalent()

    def is_missing(path: str, mutant: Mutant) -> bool:
        known = results.get(mutant.identity)
        survived = known is not None and known["outcome"] == "survived" and mutant.identity not in equivalent
        return (not arguments.area or areas[path] in arguments.area) and (
            known is None or (arguments.again and survived)
        )

    missing = [(path, mutant) for path, mutant in chosen if is_missing(path, mutant)]
    print(f"{len(missing)} of {len(chosen)} mutants to run", flush=True)
    preload()
    coverage: dict[str, Any] = {}
    if any(path not in rust for path, _ in missing):
        coverage = measured(arguments.out, Checkout((arguments.out / "checkout-0").resolve()))
    workers = []
    for job in range(arguments.jobs):
        worker = os.fork()
        if worker == 0:
            checkout = Checkout((arguments.out / f"checkout-{job}").resolve())
            for number, (path, mutant) in enumerate(missing[job :: arguments.jobs]):
                result = run_rust(checkout, mutant) if path in rust else run_python(checkout, coverage, mutant)
                with file.open("a") as handle:
                    handle.write(json.dumps(result) + "\n")
                place = job + number * arguments.jobs + 1
                print(f"{place}/{len(missing)} {result['outcome']} ({result['seconds']} s): {mutant}", flush=True)
            os._exit(0)
        workers.append(worker)
    ended = [os.waitpid(worker, 0)[1] for worker in workers]
    for line in file.read_text().splitlines() if file.exists() else ():
        result = json.loads(line)
        results[result["id"]] = result
    return report(results.values(), by_id) or int(any(ended))


if __name__ == "__main__":
    sys.exit(main())
