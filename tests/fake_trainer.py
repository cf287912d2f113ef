"""A fake trainer without torch that counts steps and handles requests: ``python -m fake_trainer RUN ATTEMPT``.

The run's config sets its behaviour: ``steps``, ``step_s``, ``load_s``, ``load_until`` (a file that ends the
loading when it exists), ``ignore_stop``, ``fail_at``, ``oom_at``.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from patchcore.interrupts import StopSignal
from patchcore.runs import RunWriter


def loss_at(step: int) -> float:
    return 1.0 / step


def main() -> int:
    run, attempt = Path(sys.argv[1]), int(sys.argv[2])
    config = json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]
    config |= json.loads((run / "attempts" / str(attempt) / "start.json").read_text(encoding="utf-8"))["overrides"]
    state_file = run / "checkpoints" / "last.json"
    done = json.loads(state_file.read_text(encoding="utf-8"))["step"] if state_file.exists() else 0
    time.sleep(config.get("load_s", 0))
    while "load_until" in config and not Path(config["load_until"]).exists():
        time.sleep(0.01)
    stop = StopSignal()
    if config.get("ignore_stop"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resumed = done + 1 if done else 0
    print("fake trainer is up", flush=True)
    with RunWriter(run, attempt, resumed_from_step=resumed, versions={"fake": "1"}, heartbeat_s=0.2) as writer:
        writer.progress(total_steps=config["steps"], phase="train")
        writer.state("running")

        def save(step: int) -> None:
            temporary = state_file.with_suffix(".tmp")
            temporary.write_text(json.dumps({"step": step}))
            temporary.replace(state_file)
            writer.checkpoint(step, "last", state_file)

        for step in range(done + 1, config["steps"] + 1):
            time.sleep(config.get("step_s", 0.01))
            writer.metric(step, step // 10, {"train/loss": loss_at(step), "lr": float("nan")})
            if step == config.get("fail_at"):
                raise RuntimeError(f"failed at step {step}")
            if step == config.get("oom_at"):
                writer.state("out of memory", "the GPU's memory is too small")
                return 1
            if step % 10 == 0:
                save(step)
                writer.case(f"step-{step:06d}", {"case_id": "case_a", "dsc": 0.5, "lesions": [1.0] * 2000}, step=step)
                writer.validation(
                    step,
                    step // 10,
                    f"step-{step:06d}",
                    {"val/dsc_mean": 1 - 1 / step, "val/dsc_global": 0.5},
                    n_cases=1,
                )
            for request in writer.requests():
                if config.get("ignore_stop"):
                    continue
                writer.acknowledge(request, "accepted")
                if request.verb in ("checkpoint", "pause", "stop"):
                    save(step)
                if request.verb in ("pause", "stop"):
                    writer.state("paused" if request.verb == "pause" else "stopped", f"requested by {request.author}")
                    return 75
            if stop.received:
                save(step)
                writer.state("stopped", f"by {stop.received}")
                return 75
        writer.state("finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
