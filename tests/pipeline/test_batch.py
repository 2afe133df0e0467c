"""The body of a job, without Slurm: signals reach the stage, and the exit code says what happened."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.batch import outcome
from sharding.allocation import cores, job_id, memory_bytes, nodes


class Heard:
    def __init__(self, *came):
        self.came = list(came)


@pytest.mark.parametrize(
    ("code", "came", "means"),
    [
        (0, (), 0), (2, (), 2), (-9, (), 71), (71, (), 71),
        (75, (signal.SIGUSR1,), 75), (130, (signal.SIGTERM,), 75), (-10, (signal.SIGUSR1,), 75),
        (0, (signal.SIGUSR1,), 0), (2, (signal.SIGUSR1,), 2),
    ],
)  # fmt: skip
def test_outcomes(code, came, means):
    assert outcome(code, Heard(*came)) == means


def test_a_warned_stage_ends_with_75_and_the_next_start_finishes_it(cli, tiny, tmp_path):
    words = ("corpus", tiny, f"workdir={tmp_path}", "corpus.train_scenes=200")
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", "batch", *words])
    time.sleep(6)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    code, out, err = cli("batch", *words[:3], "corpus.train_scenes=2")
    assert code == 0, out + err


def test_errors_of_a_stage_are_the_jobs_own(cli, tmp_path):
    code, _, err = cli("batch", "pretrain", "demo", f"workdir={tmp_path}")
    assert code == 2 and "run pseudolabel" in err


def test_what_slurm_gave_counts_not_what_the_machine_has():
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3", "SLURM_JOB_NUM_NODES": "2", "SLURM_MEM_PER_NODE": "100"}
    assert (cores(job), nodes(job), memory_bytes(job), job_id(job)) == (3, 2, 100 << 20, "7")
    assert job_id({**job, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "4"}) == "5_4"
    left_over = {"SLURM_CPUS_ON_NODE": "3", "SLURM_JOB_NUM_NODES": "2"}
    assert (cores(left_over), nodes(left_over), job_id(left_over)) == (len(os.sched_getaffinity(0)), 1, None)
    assert memory_bytes({}) > 100 << 20
