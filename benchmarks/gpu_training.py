"""Compare UNETR's training step on a GPU with MONAI's, at patch sizes 16 and 8, and measure a loop with the loader.

    python benchmarks/gpu_training.py [--minutes 8] [--window 96] [--tiny] [--part check,attention,steps,feed,profile]

Each step consists of forward, Dice + cross-entropy, backward and AdamW, in bf16 by autocast. The script prints each
measurement when it is done. If the environment variable OUT is set, it also writes all measurements to
$OUT/gpu_training.json. It is not part of ``make bench``, because no other program may use the GPU at the same time.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import UNETR as MonaiUNETR  # noqa: N811
from torch import nn

from patchcore.models import UNETR, trainable_parameters
from patchcore.models.attention import SelfAttention
from patchcore.training.loss import DiceCrossEntropyLoss

BASE = {"hidden_size": 768, "mlp_dim": 3072, "num_heads": 12, "feature_size": 16}
TINY = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
BATCH = 2
WARM, TIMED = 5, 20


class Bench:
    """Runs the measurements, prints them and stores them."""

    def __init__(self, window: int, sizes: dict[str, int], minutes: float) -> None:
        self.window, self.sizes = (window, window, window), sizes
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.ends = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {"device": self._name(), "torch": torch.__version__}
        self.report("device", self._name())

    def _name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def report(self, what: str, value: Any) -> None:
        """Print a measurement and store it."""
        self.found[what] = value
        print(f"{what}: {value}", flush=True)
        out = os.environ.get("OUT")
        if out:
            (Path(out) / "gpu_training.json").write_text(json.dumps(self.found, indent=1, default=str))

    @property
    def out_of_time(self) -> bool:
        """Whether the time is up and no further measurement may start."""
        return time.monotonic() > self.ends

    def synchronise(self) -> None:
        """Wait until the GPU has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], repeats: int = TIMED) -> float:
        """Return the median milliseconds of ``work``."""
        times = []
        for number in range(WARM + repeats):
            self.synchronise()
            start = time.perf_counter()
            work()
            self.synchronise()
            if number >= WARM:
                times.append(time.perf_counter() - start)
        return round(1e3 * sorted(times)[len(times) // 2], 2)

    def step_of(self, network: nn.Module, *, channels_last: bool) -> Callable[[], object]:
        """Return a function that runs one training step."""
        image = torch.rand(BATCH, 1, *self.window, device=self.device)
        label = (torch.rand(BATCH, *self.window, device=self.device) > 0.9).to(torch.uint8)
        network = network.to(self.device).train()
        if channels_last:
            network = network.to(memory_format=torch.channels_last_3d)
            image = image.to(memory_format=torch.channels_last_3d)
        optimizer = torch.optim.AdamW(trainable_parameters(network), 1e-4, fused=self.device.type == "cuda")
        compute_loss = DiceCrossEntropyLoss()

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                logits = network(image)
            loss = compute_loss(logits, label)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def measure(self, what: str, network: nn.Module, *, channels_last: bool, mode: str | None = None) -> None:
        """Measure time and peak memory of a training step. `mode` is torch.compile's mode; None does not compile."""
        if self.out_of_time:
            self.report(what, "skipped, no time left")
            return
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            start = time.perf_counter()
            if mode is not None:
                network = torch.compile(network, mode=mode)  # type: ignore[assignment]
            ms = self.timed(self.step_of(network, channels_last=channels_last))
            peak = torch.cuda.max_memory_allocated() >> 20 if self.device.type == "cuda" else 0
            self.report(what, {"step_ms": ms, "peak_mib": peak, "took_s": round(time.perf_counter() - start, 1)})
        except Exception as error:
            self.report(what, f"failed: {type(error).__name__}: {str(error)[:300]}")

    def ours(self, patch: int) -> UNETR:
        """Return patchcore's network."""
        torch.manual_seed(0)
        return UNETR(1, 2, self.window, patch, **self.sizes)

    def naive(self, patch: int) -> UNETR:
        """Return patchcore's network with MONAI's attention."""
        network = self.ours(patch)
        for block in network.vit.blocks:
            attention = SABlock(self.sizes["hidden_size"], self.sizes["num_heads"], 0.0)
            block.attn = attention
        return network

    def check(self) -> None:
        """Compare results before timing: the norm with torch's in float64, the network with MONAI's."""
        if self.device.type == "cuda":
            from patchcore.models.norm_triton import triton_instance_norm

            for shape in ((2, 16, 96, 96, 96), (2, 32, 48, 48, 48), (2, 128, 12, 12, 12), (1, 24, 9, 3, 4)):
                x = torch.randn(shape, device=self.device) * 3 + 50
                x = x.to(memory_format=torch.channels_last_3d)
                mine, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
                g = torch.randn_like(x)
                y, z = triton_instance_norm(mine, 1e-5), functional.instance_norm(theirs, eps=1e-5)
                y.backward(g)
                z.backward(g.double())
                assert mine.grad is not None
                assert theirs.grad is not None
                off = float((y - z).abs().max()), float((mine.grad - theirs.grad).abs().max())
                self.report(f"norm of {shape}: largest difference of output and gradient", off)
        torch.manual_seed(0)
        peer = MonaiUNETR(1, 2, self.window, **self.sizes).to(self.device).eval()
        mine_network = self.ours(16).to(self.device).eval()
        mine_network.load_state_dict(peer.state_dict())
        mine_network = mine_network.to(memory_format=torch.channels_last_3d)
        image = torch.rand(1, 1, *self.window, device=self.device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with torch.no_grad():
            off_by = float((mine_network(image) - peer(image)).abs().max())
        torch.backends.cudnn.allow_tf32 = True
        self.report("largest difference of the networks", off_by)

    def steps(self) -> None:
        """Bar 1: whole training steps."""
        torch.manual_seed(0)
        graphs = "reduce-overhead"

        def monai() -> MonaiUNETR:
            return MonaiUNETR(1, 2, self.window, **self.sizes)

        self.measure("16 MONAI eager", monai(), channels_last=False)
        self.measure("16 ours eager", self.ours(16), channels_last=True)
        self.measure("8 MONAI's attention eager", self.naive(8), channels_last=True)
        self.measure("8 ours eager", self.ours(8), channels_last=True)
        self.measure("16 ours compiled", self.ours(16), channels_last=True, mode="default")
        self.measure("16 ours compiled, graphs", self.ours(16), channels_last=True, mode=graphs)
        self.measure("16 MONAI compiled, graphs", monai(), channels_last=False, mode=graphs)
        self.measure("8 ours compiled, graphs", self.ours(8), channels_last=True, mode=graphs)
        self.measure("16 MONAI compiled", monai(), channels_last=False, mode="default")
        self.measure("8 MONAI's attention compiled, graphs", self.naive(8), channels_last=True, mode=graphs)

    def attention(self) -> None:
        """Measure only the attention block, forward and backward, at patch size 8."""
        width, heads = self.sizes["hidden_size"], self.sizes["num_heads"]
        tokens = (self.window[0] // 8) ** 3
        naive = SABlock(width, heads, 0.0).to(self.device)
        ours = SelfAttention(
            copy.deepcopy(naive.qkv), copy.deepcopy(naive.out_proj), num_heads=heads, dropout=0.0
        ).to(self.device)  # fmt: skip
        x = torch.randn(BATCH, tokens, width, device=self.device, requires_grad=True)

        def step(block: nn.Module) -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                y = block(x)
            y.float().square().mean().backward()

        for name, block in (("MONAI's", naive), ("ours", ours)):
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            # Run twenty steps in a row: a single step takes no longer than its launch.
            ms = round(self.timed(lambda block=block: [step(block) for _ in range(20)]) / 20, 3)  # type: ignore[misc]
            peak = torch.cuda.max_memory_allocated() >> 20 if self.device.type == "cuda" else 0
            self.report(f"attention block, {tokens} tokens, {name}", {"ms": ms, "peak_mib": peak})
        with torch.no_grad():
            difference = float((naive(x) - ours(x)).abs().max())
        self.report("largest difference of the attention blocks", difference)

    def feed(self) -> None:
        """Measure how long a training loop waits for the loader."""
        import patchcore as pc

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            edge = max(self.window[0] * 2, 128)
            pc.make_phantoms(folder / "data", preset="large", cases=4, shape=(edge * 2, edge * 2, edge))
            study = pc.analyze(folder / "data", folder / "study")
            pc.plan_patch_size(study, window_size=self.window, spacing=(1.0, 1.0, 1.0))
            pc.prepare(study)
            plain = self.ours(16).to(self.device).to(memory_format=torch.channels_last_3d).train()
            graphs = self.device.type == "cuda"
            network = torch.compile(plain, mode="reduce-overhead") if graphs else plain
            optimizer = torch.optim.AdamW(trainable_parameters(plain), 1e-4, fused=graphs)
            compute_loss = DiceCrossEntropyLoss()
            for what, given in (
                ("plain", {}),
                ("augmented", {"augment": pc.AugmentConfig()}),
                ("augmented, two threads", {"augment": pc.AugmentConfig(), "threads": 2}),
            ):
                if self.out_of_time:
                    return
                steps = 20 + 100 if self.device.type == "cuda" else 8
                with pc.WindowLoader(study, steps=steps, device=self.device, **given) as loader:
                    began, waited = 0.0, 0.0
                    for number, batch in enumerate(loader):
                        if number == min(20, steps // 2):
                            self.synchronise()
                            began, waited = time.perf_counter(), loader.waited_s
                        with torch.autocast(self.device.type, torch.bfloat16):
                            logits = network(batch["image"])
                        loss = compute_loss(logits, batch["label"])
                        optimizer.zero_grad(set_to_none=True)
                        loss.backward()
                        optimizer.step()
                        loss.item()
                    seconds = time.perf_counter() - began
                    count = steps - min(20, steps // 2)
                    share = (loader.waited_s - waited) / seconds
                self.report(
                    f"loop with loader, {what}", {"step_ms": round(1e3 * seconds / count, 2), "waited": f"{share:.2%}"}
                )

    def profile(self) -> None:
        """Profile a training step."""
        if self.device.type != "cuda":
            return
        from torch.profiler import ProfilerActivity, profile

        for patch in (16, 8):
            if self.out_of_time:
                return
            step = self.step_of(self.ours(patch), channels_last=True)
            for _ in range(WARM):
                step()
            self.synchronise()
            with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
                for _ in range(3):
                    step()
                self.synchronise()
            averages = found.key_averages()
            table = averages.table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=70)
            print(f"== profile of 3 steps at patch size {patch}\n{table}", flush=True)
            out = os.environ.get("OUT")
            if out:
                (Path(out) / f"profile_{patch}.txt").write_text(
                    averages.table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=110)
                )


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--tiny", action="store_true", help="Use a tiny network, to try the script without a GPU.")
    parser.add_argument("--part", default="check,attention,steps,feed,profile")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    bench = Bench(arguments.window, TINY if arguments.tiny else BASE, arguments.minutes)
    for part in arguments.part.split(","):
        getattr(bench, part)()


if __name__ == "__main__":
    main()
