"""A fake trainer without a network: ``python -m fake_trainer RUN ATTEMPT`` writes the files of a real trainer, quickly.

``config.fake`` of the run sets the number of steps and the seconds per step.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from patchcore.runs import RunWriter
from patchcore.types import ExitCode


def main(run: Path, attempt: int) -> int:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    options = record["config"]["fake"]
    last = run / "checkpoints" / "last.json"
    first = json.loads(last.read_text(encoding="utf-8"))["step"] if last.exists() else 0
    with RunWriter(run, attempt, resumed_from_step=first, heartbeat_s=0.2) as writer:
        writer.progress(step=first, total_steps=options["steps"], phase="train")
        writer.state("running")
        for step in range(first, options["steps"]):
            rise = 1 - math.exp(-step / 20)
            writer.metric(step, step // 10, {"train/loss": 1.5 - rise, "train/window_dsc": 0.7 * rise})
            writer.progress(eta_s=(options["steps"] - step) * options["step_s"])
            if step % 10 == 9:
                name = f"step-{step:06}"
                for case in range(3):
                    writer.case(name, {"case_id": f"case_{case}", "dsc": rise * (0.6 + case / 10)}, step=step)
                values = {"val/dsc_mean": 0.7 * rise, "val/dsc_global": 0.8 * rise}
                writer.validation(step, step // 10, name, values, n_cases=3)
            for request in writer.requests():
                writer.acknowledge(request, "accepted")
                last.write_text(json.dumps({"step": step + 1}), encoding="utf-8")
                writer.checkpoint(step, "last", last)
                writer.state("paused" if request.verb == "pause" else "stopped", f"requested by {request.author}")
                return ExitCode.STOPPED
            time.sleep(options["step_s"])
        writer.state("finished")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
