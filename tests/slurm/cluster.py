"""A real Slurm of several nodes on this machine, as the user who runs the tests; no other cluster is touched."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CONF = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=5
SlurmdTimeout=30
MinJobAge=3600
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Cluster:
    """Two nodes of four cores each, by configuration; they share this machine."""

    folder: Path
    names: tuple[str, ...] = ("n1", "n2")

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "COLUMNS": "200"}

    def call(self, *words: object) -> str:
        done = subprocess.run([str(w) for w in words], env=self.environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        for name in ("state", "log", *(f"spool.{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True)
        ports = free_ports(1 + len(self.names))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000"
            for name, port in zip(self.names, ports[1:], strict=True)
        )
        text = CONF.format(ports=ports, user=getpass.getuser(), folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        self.call("slurmctld", "-i")
        for name in self.names:
            self.start_node(name)
        self.until(lambda: self.call("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self.names), 60)

    def start_node(self, name: str) -> None:
        self.call("slurmd", "-N", name)

    def stop(self) -> None:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=self.environ, capture_output=True)
        for path in self.folder.glob("*.pid"):
            self.kill(path, signal.SIGTERM)
        time.sleep(1)
        for path in self.folder.glob("*.pid"):
            self.kill(path, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def kill(pid_file: Path, number: int) -> None:
        try:
            os.kill(int(pid_file.read_text()), number)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return

    @staticmethod
    def until(condition, seconds: float, every: float = 0.2):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(every)
        raise AssertionError(f"not so within {seconds} s")

    def cli(self, *words: object) -> tuple[int, str]:
        """The command line as a user of this cluster; (exit code, what it printed)."""
        done = subprocess.run(
            [self.program, *map(str, words)], env=self.environ, capture_output=True, text=True, timeout=900
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def program(self) -> str:
        import sys

        return str(Path(sys.executable).with_name("hypervision"))

    def jobs(self) -> dict[str, dict[str, str]]:
        """Job number -> what Slurm tells of it."""
        found = {}
        for line in self.call("scontrol", "-o", "show", "job").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if "JobId" in fields:
                found[fields["JobId"]] = fields
        return found

    def states(self, job: str) -> list[str]:
        """States of a job, or of all elements of an array."""
        rows = self.jobs().values()
        return [row["JobState"] for row in rows if job in (row["JobId"], row.get("ArrayJobId"))]

    def ended(self, job: str, seconds: float) -> list[str]:
        """Wait for a job to end; its states."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
        return self.until(lambda: (found := self.states(job)) and set(found) <= over and found, seconds)

    def submitted(self, work: Path) -> dict[str, str]:
        """Stage -> the newest job of a work folder."""
        lines = (work / "slurm" / "jobs.jsonl").read_text().splitlines()
        return {row["stage"]: row["job"] for row in map(json.loads, lines)}

    def logs(self, work: Path) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(work.glob("slurm/*.log")))
