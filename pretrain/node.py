"""The ranks of one node of a Slurm job: `srun` starts this once a node, and it starts torchrun.

What the node is called and which one it is comes from Slurm; the ranks meet at a port of the first node, from where
`srun` was started. A signal to the job reaches this process and goes on to the ranks, which save and end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pretrain.launch import TORCHRUN, end_ranks, forwarding, start_launcher, tell_ranks

POLL_SECONDS = 0.5


def command(spec_path: str, port: str, environ: dict[str, str]) -> list[str]:
    """The torchrun of this node.

    Raises:
        KeyError: this is not a task of `srun`.
    """
    count, number = int(environ["SLURM_NNODES"]), int(environ["SLURM_NODEID"])
    ranks = json.loads(Path(spec_path).read_text())["ranks"]
    return [
        *TORCHRUN, f"--nnodes={count}", f"--node-rank={number}", f"--nproc-per-node={ranks // count}",
        f"--master-addr={environ['SLURM_LAUNCH_NODE_IPADDR']}", f"--master-port={port}",
        "-m", "pretrain.train", spec_path,
    ]  # fmt: skip


def main(spec_path: str, port: str) -> int:
    """Run the ranks of this node to their end; their exit code."""
    process = start_launcher(command(spec_path, port, dict(os.environ)), os.environ, None)
    with forwarding(process) as came:
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:  # a rank that just starts does not hear yet
                    for number in came[:1]:
                        tell_ranks(process, number)
        finally:
            end_ranks(process)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
