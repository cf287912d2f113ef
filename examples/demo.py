"""Run the complete workflow on phantom CTs: measure, plan, train, evaluate, tune. ``make demo`` runs this script.

    python examples/demo.py [FOLDER] [--minutes 5] [--cases 40] [--no-dashboard]

Every step is a normal patchcore command; it is printed before it runs. In a terminal, the dashboard shows the training.
Press q to quit the dashboard; the training continues. The exit code is 0 if the mean DSC over the validation cases is
at least 0.7, and at least 0.1 higher than the DSC of the best fixed HU threshold within the liver on the same cases.
Otherwise the exit code is 1. At the end, the post-processing that ``patchcore tune`` chose on the validation cases is
tried on 20 phantoms of another seed: what it does to the DSC, and how many false and true lesions it removes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

LIVER = "1"
LEAST_DSC = 0.7
LEAST_LEAD = 0.1


def patchcore(*arguments: str, capture: bool = False) -> str:
    """Print and run one patchcore command. If it fails, exit with its exit code."""
    print(f"\n$ patchcore {shlex.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "patchcore", *arguments],
        stdout=subprocess.PIPE if capture else None,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def try_tuning(folder: Path, run: Path) -> str:
    """Tune the run, predict further phantoms without the choice, and with it if it is kept; say what it changes."""
    patchcore("tune", str(run))
    further = folder / "phantoms-further-20"
    if not (further / "dataset.json").exists():
        patchcore("phantom", str(further), "--preset", "large", "--cases", "20", "--seed", "1")
    kept = json.loads((run / "postprocess.json").read_text(encoding="utf-8"))["kept"]
    texts = [] if kept else ["tuning is not kept, because its gain on the validation cases may be chance"]
    trials: dict[str, list[str]] = {"without": ["--no-postprocess"]} | ({"with": []} if kept else {})
    for name, options in trials.items():
        out = folder / f"predictions-{name}-tuning"
        patchcore("predict", str(run), str(further / "images"), "-o", str(out), "--overwrite", *options)
        scores = json.loads(
            patchcore("score", str(further / "labels"), str(out), "--lesion-label", "2", "--json", capture=True)
        )
        summary = scores["summary"]
        dsc, lesions = summary["classes"]["2"]["dsc"], summary["by_size"][-1]
        texts.append(
            f"{name} tuning mean DSC {dsc['mean']:.3f} [{dsc['patient_low']:.3f}, {dsc['patient_high']:.3f}], "
            f"{lesions['found']} of {lesions['lesions']} lesions found, {lesions['true']} of {lesions['predicted']} "
            f"predicted ones true (precision {lesions['precision'] or 0:.2f})"
        )
    return "; ".join(texts)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0, help="Longest training time [min].")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--no-dashboard", action="store_true")
    options = parser.parse_args()
    phantoms, study = options.folder / f"phantoms-large-{options.cases}", options.folder / "study"

    if not (phantoms / "dataset.json").exists():
        patchcore("phantom", str(phantoms), "--preset", "large", "--cases", str(options.cases), "--seed", "0")
    patchcore("analyze", str(phantoms), str(study), "--lesion-label", "2")
    patchcore("plan", str(study), "--window", "48")

    steps = ["--steps", str(options.steps), "--max-minutes", str(options.minutes)]
    settings = ["model.feature_size=8", "validation.every_epochs=6"]
    # The settings of the recipe are for thousands of steps. With so few, the network learns faster with a higher
    # learning rate, a shorter average of the weights, and little augmentation: only mirroring and contrast stay on.
    settings += ["optim.lr=1.2e-3", "optim.ema=0.99", "augment.quarter_turns=false"]
    still = ("affine_share", "noise_share", "blur_share", "low_resolution_share", "gamma_share")
    settings += [f"augment.{name}=0" for name in still]
    chosen = [part for setting in settings for part in ("--set", setting)]
    network = ["--preset", "small", "--recipe", "lesions"]
    run = patchcore("train", str(study), *network, *chosen, *steps, "--name", "demo", "--detach", capture=True)
    run = run.strip().splitlines()[-1]
    if sys.stdout.isatty() and not options.no_dashboard:
        patchcore("dashboard", str(study))
    patchcore("runs", "tail", str(study / "runs" / run))

    patchcore("evaluate", str(study), run, "--organ-label", LIVER)
    report = study / "reports" / run
    evaluation = json.loads((report / "evaluation.json").read_text(encoding="utf-8"))
    dsc, threshold = evaluation["mean_dsc"], evaluation["threshold"]["mean"]
    tried = try_tuning(options.folder, study / "runs" / run)
    met = dsc is not None and dsc >= LEAST_DSC and dsc >= threshold + LEAST_LEAD
    print(
        f"\nmean DSC {dsc:.3f}; best fixed HU threshold within the liver {threshold:.3f}; tables and figures: "
        f"{report}\n20 further phantoms: {tried}"
    )
    if not met:
        print(
            f"expected a mean DSC of at least {LEAST_DSC}, and at least {LEAST_LEAD} above the threshold",
            file=sys.stderr,
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
