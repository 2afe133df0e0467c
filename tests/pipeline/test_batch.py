"""The body of a job, without Slurm: signals reach the stage, and the exit code says what happened."""

import os
import signal

import pytest

from pipeline.batch import outcome
from sharding.allocation import cores, job_id, memory_bytes, nodes
from sharding.catalog import load_row
from sharding.generator.fakes import write_fake
from sharding.records import find_records
from tests.waiting import SAFETY_SECONDS, HeldFile, wait_for


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


def ignore_interrupts():
    """As a shell does for what it puts into the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_warned_stage_ends_with_75_and_the_next_start_finishes_it(cli, launch, tmp_path):
    write_fake("cave_png", tmp_path / "raw", load_row("cave_png").known_wavelength_nm)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"workdir: {tmp_path / 'w'}\ndatasets: [{{name: cave_png, root: {tmp_path / 'raw'}}}]\n")
    *_, band = sorted((tmp_path / "raw").rglob("*.png"))
    held = HeldFile(band)
    process = launch("batch", "ingest", recipe, preexec_fn=ignore_interrupts)
    wait_for(lambda: held.has_reader() or process.poll() is not None, "the stage at its scene")
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == 75, out + err
    held.put_back()
    assert not list(find_records(tmp_path / "w"))
    code, out, err = cli("batch", "ingest", recipe)
    assert code == 0 and len(list(find_records(tmp_path / "w"))) == 1, out + err


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
