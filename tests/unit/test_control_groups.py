"""Memory limits of control groups: both versions, parents, containers, and a page cache that counts as used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patchcore import memory
from patchcore.control_groups import MemoryGroup, memory_groups
from patchcore.runs import process

MIB = 1 << 20


def machine(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """Write a proc and a sys folder."""
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def frees(root: Path) -> list[int | None]:
    return [group.free_bytes() for group in memory_groups(root)]


def test_the_page_cache_of_a_container_is_not_used_memory(tmp_path: Path) -> None:
    """After `analyze`, the cache fills the container: 8 GiB, of which 7.9 are cache."""
    group = "sys/fs/cgroup"
    root = machine(
        tmp_path,
        "0::/\n",
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n",
        {
            f"{group}/memory.max": f"{8192 * MIB}\n",
            f"{group}/memory.current": f"{8136 * MIB}\n",
            f"{group}/memory.stat": f"anon {200 * MIB}\ninactive_file {7000 * MIB}\nactive_file {900 * MIB}\n",
            f"{group}/memory.events": "low 0\noom 1\noom_kill 3\n",
        },
    )
    assert frees(root) == [7056 * MIB]
    assert memory_groups(root)[0].oom_kills() == 3


def test_the_limit_of_a_job_belongs_to_a_parent(tmp_path: Path) -> None:
    """Slurm on a bare node, version 2: the limit is set two levels above the process."""
    job = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7"
    root = machine(
        tmp_path,
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        {
            f"{job}/memory.max": f"{100 * MIB}\n",
            f"{job}/memory.current": f"{30 * MIB}\n",
            f"{job}/step_0/user/task_0/memory.max": "max\n",
            f"{job}/step_0/user/task_0/memory.current": f"{30 * MIB}\n",
        },
    )
    known = [free for free in frees(root) if free is not None]
    assert known == [70 * MIB]
    assert memory_groups(root)[0].folder == root / job / "step_0/user/task_0"
    assert memory_groups(root)[-1].folder == root / "sys/fs/cgroup"


@pytest.mark.parametrize(("shown", "own"), [("/", "/slurm/job_7"), ("/slurm/job_7", "/slurm/job_7")])
def test_version_1_with_and_without_a_mounted_part(tmp_path: Path, shown: str, own: str) -> None:
    """In a container without a namespace of its own, only the container's part is mounted."""
    place = "sys/fs/cgroup/memory" + (own if shown == "/" else "")
    root = machine(
        tmp_path,
        f"5:memory,hugetlb:{own}\n2:cpu:/\n0::/\n",
        f"35 31 0:32 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,hugetlb\n"
        "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        {
            f"{place}/memory.limit_in_bytes": f"{50 * MIB}\n",
            f"{place}/memory.usage_in_bytes": f"{40 * MIB}\n",
            f"{place}/memory.stat": f"inactive_file {1 * MIB}\ntotal_inactive_file {30 * MIB}\n",
            f"{place}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        },
    )
    assert frees(root)[0] == 40 * MIB
    assert memory_groups(root)[0].oom_kills() == 2


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    for name, text in (("memory.limit_in_bytes", str(2**63 - 4096)), ("memory.usage_in_bytes", "5")):
        (tmp_path / name).write_text(text)
    assert MemoryGroup(tmp_path, 1).free_bytes() is None
    (tmp_path / "memory.max").write_text("max\n")
    assert MemoryGroup(tmp_path, 2).free_bytes() is None
    assert MemoryGroup(tmp_path / "absent", 2).oom_kills() is None
    assert memory_groups(tmp_path) == []


def test_the_smallest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        def __init__(self, free: int | None, kills: int | None) -> None:
            self.free_bytes, self.oom_kills = (lambda: free), (lambda: kills)

    monkeypatch.setattr(memory, "memory_groups", lambda: [Group(None, None), Group(7, None), Group(9, None)])
    assert memory.available_bytes() == 7
    monkeypatch.setattr(memory, "memory_groups", list)
    assert memory.available_bytes() > 7
    monkeypatch.setattr(process, "memory_groups", lambda: [Group(None, None), Group(None, 4)])
    assert process.oom_kill_counts()["cgroup"] == 4


def test_a_real_group_of_this_machine(tmp_path: Path) -> None:
    """Where this process may make a control group, its limit is seen, and a page cache in it is free memory."""
    groups = [group for group in memory_groups() if group.version == 1]
    if os.geteuid() or not groups:
        pytest.skip("control groups of version 1 cannot be made here")
    folder = groups[-1].folder / f"patchcore-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(256 * MIB))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    data = tmp_path / "data"
    data.write_bytes(b"x" * (100 * MIB))
    os.sync()
    code = f"""
import os
open({str(folder / "cgroup.procs")!r}, "w").write(str(os.getpid()))
with open({str(data)!r}, "rb", buffering=0) as handle:
    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    while handle.read(1 << 20):
        pass
from patchcore.memory import available_bytes
used = int(open({str(folder / "memory.usage_in_bytes")!r}).read())
print(used >> 20, available_bytes() >> 20)
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
        used, free = map(int, done.stdout.split())
        # The process itself is small; if the cache counted, less than 156 MiB were free.
        assert 160 <= free <= 256, (used, free)
    finally:
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)
