"""A real Slurm of several nodes on this machine, as the user who runs the tests; no other cluster is touched."""

import getpass
import json
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.waiting import RUN_SECONDS, SAFETY_SECONDS, wait_for

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

ASK_SECONDS = 0.2  # between two questions to Slurm, which takes a process for each


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
        done = subprocess.run(
            [str(w) for w in words], env=self.environ, capture_output=True, text=True, timeout=SAFETY_SECONDS
        )
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
        idle = ["idle"] * len(self.names)
        wait_for(
            lambda: self.call("sinfo", "-h", "-N", "-o", "%T").split() == idle, "a cluster of idle nodes", ASK_SECONDS
        )

    def start_node(self, name: str) -> None:
        self.call("slurmd", "-N", name)

    def stop(self) -> None:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=self.environ, capture_output=True)
        daemons = []
        for path in self.folder.glob("*.pid"):
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ValueError):
                daemons.append(psutil.Process(int(path.read_text())))
                daemons[-1].terminate()
        for left in psutil.wait_procs(daemons, timeout=60)[1]:
            left.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cli(self, *words: object) -> tuple[int, str]:
        """The command line as a user of this cluster; (exit code, what it printed)."""
        done = subprocess.run(
            [self.program, *map(str, words)], env=self.environ, capture_output=True, text=True, timeout=RUN_SECONDS
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

    def ended(self, job: str) -> list[str]:
        """Wait for a job to end; its states."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}

        def all_over() -> list[str]:
            states = self.states(job)
            return states if set(states) <= over else []

        return wait_for(all_over, f"the end of job {job}", ASK_SECONDS)

    def submitted(self, work: Path) -> dict[str, str]:
        """Stage -> the newest job of a work folder."""
        lines = (work / "slurm" / "jobs.jsonl").read_text().splitlines()
        return {row["stage"]: row["job"] for row in map(json.loads, lines)}

    def logs(self, work: Path) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(work.glob("slurm/*.log")))
