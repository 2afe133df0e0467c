"""One Ray across the nodes of a Slurm job: its head here, on the first node, the rest by `srun`.

Ports are free ones, the temporary folder and the token that lets processes in are the job's own, so several jobs on a
node do not meet.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sharding.allocation import cores, free_port, nodes, one_task_a_node
from sharding.errors import StageFailed

START_SECONDS = 120.0
Processes = tuple[list[subprocess.Popen[bytes]], Path]


def _address() -> str:
    """An address of this node that the others reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent: the system only picks the way out
        return str(probe.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())


def _ray(*words: str) -> list[str]:
    import torch

    ray = str(Path(sys.executable).with_name("ray"))
    gpus = torch.cuda.device_count()
    return [ray, "start", *words, f"--num-cpus={cores()}", f"--num-gpus={gpus}", "--disable-usage-stats", "--block"]


def _alive(address: str) -> int:
    """Nodes that the head knows."""
    code = (
        "import sys, logging, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    told = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True)
    return int(told.stdout.split()[-1]) if told.returncode == 0 else 0


def start() -> tuple[str, Processes]:
    """Start the cluster and wait for all nodes; (its address, what to give to `stop`).

    Raises:
        StageFailed: not all nodes joined in time.
    """
    here, port = _address(), free_port()
    address = f"{here}:{port}"
    folder = Path(tempfile.mkdtemp(prefix=f"hv-ray-{os.getpid()}-"))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    log = (folder / "start.log").open("ab")
    head = _ray("--head", f"--port={port}", f"--node-ip-address={here}", f"--temp-dir={folder}")
    head += ["--include-dashboard=false"]
    running = [subprocess.Popen(head, stdout=log, stderr=log)]
    srun = one_task_a_node(nodes() - 1, "--overlap", "--relative=1")
    end = time.monotonic() + START_SECONDS
    while not _reached(here, port) and time.monotonic() < end:
        time.sleep(0.5)
    running.append(subprocess.Popen([*srun, *_ray(f"--address={address}")], stdout=log, stderr=log))
    while time.monotonic() < end and not any(one.poll() for one in running):
        if _alive(address) == nodes():
            return address, (running, folder)
    told = " ".join((folder / "start.log").read_text(errors="replace").split())[-400:]
    stop((running, folder))
    raise StageFailed(f"not all {nodes()} nodes of the job joined Ray at {address}: ... {told}")


def _reached(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def stop(processes: Processes) -> None:
    """End the cluster."""
    running, folder = processes
    for process in reversed(running):
        process.terminate()
    for process in running:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
