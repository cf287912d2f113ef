"""A real Slurm cluster of this machine, for tests: slurmctld and slurmd of Debian's packages, unpacked, not installed.

    python tests/slurm_cluster.py

downloads and unpacks them into a cache; the tests do it themselves. Without apt, and without Slurm on the path, there
is no cluster.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libdbus-1-3", "libhwloc15", "libjson-c5",
    "liblua5.1-0", "liblz4-1", "libmunge2", "libnuma1", "libpam0g", "libreadline8", "libyaml-0-2",
)  # fmt: skip
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "patchcore" / "slurm"
READY_S = 60.0


def slurm_root() -> Path | None:
    """Return the folder that holds ``usr/sbin/slurmctld``; download it if it is needed; None if that is impossible."""
    if shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("sbatch"):
        return Path("/")
    root = CACHE / "root"
    if (root / "usr/sbin/slurmctld").exists():
        return root
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    work = CACHE / f"unfinished-{os.getpid()}"
    for folder in ("lists/partial", "cache/archives/partial", "root"):
        (work / folder).mkdir(parents=True)
    options = [
        "-qq",
        "-o",
        f"Dir::State::lists={work}/lists",
        "-o",
        f"Dir::Cache={work}/cache",
        "-o",
        "Debug::NoLocking=1",
    ]
    try:
        subprocess.run(["apt-get", *options, "update"], check=True, capture_output=True)
        subprocess.run(["apt-get", *options, "download", *PACKAGES], check=True, capture_output=True, cwd=work)
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True, capture_output=True)
        # Debian installs some programs under another name, and links them when the package is set up.
        for program in (work / "root/usr").glob("*bin/*-wlm"):
            program.with_name(program.name.removesuffix("-wlm")).symlink_to(program.name)
        shutil.rmtree(root, ignore_errors=True)  # of a version of this file that did not link them
        (work / "root").rename(root)
    except (subprocess.CalledProcessError, OSError) as error:
        if not (root / "usr/sbin/slurmctld").exists():  # another process may have been quicker
            print(f"no Slurm: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            return None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


class SlurmCluster:
    """Two cores, and two partitions: jobs in ``high`` preempt those in ``low``, which are requeued.

    Args:
        folder: An empty folder.
        root: From :func:`slurm_root`.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        host = socket.gethostname()
        [libraries] = {path.parent for path in root.glob("usr/lib/*/slurm-wlm/libslurmfull.so")}
        ports = [_free_port() for _ in range(2)]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        user = getpass.getuser()
        (folder / "slurm.conf").write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
AuthInfo=cred_expire=2
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PluginDir={libraries}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
JobRequeue=1
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
""",
            encoding="utf-8",
        )
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        if root != Path("/"):
            self.env["PATH"] = f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}"
            self.env["LD_LIBRARY_PATH"] = f"{libraries}:{libraries.parent}"
        step = root / "usr/sbin/slurmstepd"
        self._daemons = [
            self._daemon(folder, ["slurmctld", "-D"]),
            self._daemon(folder, ["slurmd", "-D", "-N", host, "-d", str(step)]),
        ]
        deadline = time.monotonic() + READY_S
        while "idle" not in self.call("sinfo", "-h", "-o", "%T", check=False):
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
                self.end()
                raise RuntimeError(f"the cluster did not start\n{logs}")
            time.sleep(0.2)

    def _daemon(self, folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
        with (folder / f"{command[0]}.log").open("wb") as log:
            return subprocess.Popen(command, env=os.environ | self.env, stdout=log, stderr=log, start_new_session=True)

    def call(self, *command: str, check: bool = True) -> str:
        """Run a command of Slurm and return its output."""
        done = subprocess.run(command, env=os.environ | self.env, capture_output=True, text=True, check=check)
        return done.stdout

    def end(self) -> None:
        """Cancel all jobs and stop the daemons."""
        self.call("scancel", "--user", getpass.getuser(), "--signal=KILL", check=False)
        self.call("scancel", "--user", getpass.getuser(), check=False)
        time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(slurm_root() or "no Slurm: neither on the path nor to be downloaded")
