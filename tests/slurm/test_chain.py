"""A chain of jobs on a real Slurm: what it makes, what it sends again, and what it does not start."""

import os
import signal

import psutil
import pytest

from sharding.records import find_records, read_record
from tests.waiting import wait_for

pytestmark = pytest.mark.system

SMALL = (
    "corpus.size=64", "corpus.train_scenes=3", "corpus.probe_scenes=6", "pseudolabel.tile=64",
    "pseudolabel.shard_bytes=400000", "model.options={image_size: 64}", "teacher.image_size=64", "pretrain.steps=6",
    "pretrain.save_every=4", "pretrain.pictures_every=0", "pretrain.probe_every=0", "evidence.probe_train_scenes=4",
    "evidence.label_scenes=2", "ingest.workers=2", "pseudolabel.workers=1",
)  # fmt: skip


def hashes(work):
    """Content of every unit; of a checkpoint the weights, since DeepSpeed's own files hold times."""
    found = {}
    for path in find_records(work):
        record = read_record(path)
        found[str(path.relative_to(work))] = record.files.get("weights.safetensors", [0, record.sha256])[1]
    return found


def test_the_demo_chain_on_two_nodes_gives_what_one_machine_gives(cluster, cli, site, tmp_path):
    there, here = (f"workdir={tmp_path / name}" for name in ("slurm", "local"))
    words = ("submit", "demo", there, *SMALL, "--site", site())
    code, out = cluster.cli(*words, "--wait")
    assert code == 0 and "all stages are done" in out, out + cluster.logs(tmp_path / "slurm")
    jobs = cluster.submitted(tmp_path / "slurm")
    assert list(jobs) == ["corpus", "ingest", "pseudolabel", "pretrain", "export", "evidence", "report", "compare"]
    assert cluster.jobs()[jobs["pretrain"]]["NodeList"] == "n[1-2]" and len(cluster.states(jobs["ingest"])) == 2
    code, out, err = cli("run", "demo", here, *SMALL)
    assert code == 0, out + err
    mine, local = hashes(tmp_path / "slurm"), hashes(tmp_path / "local")
    assert mine == local and len(mine) > 20
    assert (tmp_path / "slurm" / "report.png").is_file() and (tmp_path / "slurm" / "mlflow.db").is_file()
    code, out = cluster.cli(*words)
    assert code == 0 and "nothing to submit" in out and cluster.submitted(tmp_path / "slurm") == jobs


def kill_element(stage, element):
    """End the body of one array element and all that it started, without a word."""
    for process in psutil.process_iter():
        try:
            words, told = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if "batch" in words and stage in words and told.get("SLURM_ARRAY_TASK_ID") == str(element):
            for one in (*process.children(recursive=True), process):
                os.kill(one.pid, signal.SIGKILL)
            return True
    return False


def test_what_follows_a_failed_element_does_not_start_and_the_same_command_goes_on(cluster, tiny, site, tmp_path):
    work = tmp_path / "w"
    words = ("submit", tiny, f"workdir={work}", "until=export", "--site", site())
    code, out = cluster.cli(*words)
    assert code == 0, out
    first = cluster.submitted(work)
    wait_for(lambda: kill_element("ingest", 1), "an element to kill")
    states = cluster.ended(first["ingest"])
    assert sorted(states) == ["COMPLETED", "FAILED"], cluster.logs(work)
    assert cluster.ended(first["pretrain"]) == ["CANCELLED"]
    assert set(cluster.ended(first["pseudolabel"])) == {"CANCELLED"} and not (work / "shards").exists()
    code, out = cluster.cli("status", tiny, f"workdir={work}", "until=export")
    assert code == 0 and f"ingest: job {first['ingest']}_1 failed" in out and "to go on: hypervision submit" in out, out
    code, out = cluster.cli(*words, "--wait")
    assert code == 0, out + cluster.logs(work)
    second = cluster.submitted(work)
    assert second["ingest"] == first["ingest"], "the other element made what this one left"
    assert second["pseudolabel"] != first["pseudolabel"] and (work / "runs/tiny/export/model.safetensors").is_file()
    assert not list(work.rglob("*.claim")) and not list(work.rglob("*.tmp-*"))


def test_a_second_submission_adds_nothing_and_another_configuration_is_refused(cluster, tiny, site, work):
    words = ("submit", tiny, f"workdir={work}", "until=export")
    code, out = cluster.cli(*words, "--dry-run")
    assert code == 0 and "#SBATCH --signal=B:USR1@600" in out and not (work / "slurm").exists()
    held = site(pretrain={"hold": True})
    code, out = cluster.cli(*words, "--site", held)
    assert code == 0, out
    jobs = cluster.submitted(work)
    assert set(jobs) == {"pretrain", "export"}
    code, out = cluster.cli(*words, "--site", held)
    assert code == 0 and "in the queue" in out and cluster.submitted(work) == jobs
    code, out = cluster.cli(*words, "pretrain.lr=0.1", "--site", held)
    assert code == 2 and f"scancel {jobs['pretrain']} {jobs['export']}" in out, out
    code, out = cluster.cli("status", *words[1:])
    assert (code == 0 and f"{jobs['pretrain']} waits (JobHeldUser)" in out.replace("\n", " ")) or "JobHeld" in out, out
    cluster.call("scancel", jobs["pretrain"])
    assert cluster.ended(jobs["export"]) == ["CANCELLED"]


def test_two_jobs_on_one_node_do_not_meet(cluster, tiny, site, labelled, tmp_path):
    import shutil

    there = site(ingest={"nodelist": "n1", "array": None}, pseudolabel={"nodelist": "n1", "array": None})
    folders = [tmp_path / "a", tmp_path / "b"]
    for work in folders:
        shutil.copytree(labelled / "corpus", work / "corpus")
        code, out = cluster.cli("submit", tiny, f"workdir={work}", "until=pseudolabel", "--site", there)
        assert code == 0, out
    jobs = [cluster.submitted(work) for work in folders]
    for stage in ("ingest", "pseudolabel"):
        for work, mine in zip(folders, jobs, strict=True):
            assert cluster.ended(mine[stage]) == ["COMPLETED"], cluster.logs(work)
    told = cluster.jobs()
    spans = [(told[mine["ingest"]]["StartTime"], told[mine["ingest"]]["EndTime"]) for mine in jobs]
    assert spans[1][0] < spans[0][1] and spans[0][0] < spans[1][1], "they did run at one time"
    assert {told[mine["ingest"]]["NodeList"] for mine in jobs} == {"n1"}
    units = [hashes(work / "cubes") | hashes(work / "shards") for work in folders]
    assert units[0] == units[1] == hashes(labelled / "cubes") | hashes(labelled / "shards")


def test_one_ray_across_the_nodes_of_a_job(cluster, tiny, site, labelled, tmp_path):
    import shutil

    stages = {name: {"nodes": 2, "array": None} for name in ("ingest", "pseudolabel")}
    shutil.copytree(labelled / "corpus", tmp_path / "w" / "corpus")
    words = ("submit", tiny, f"workdir={tmp_path / 'w'}", "until=pseudolabel")
    code, out = cluster.cli(*words, "--site", site(top={"ray": "job"}, **stages), "--wait")
    assert code == 0, out + cluster.logs(tmp_path / "w")
    assert hashes(tmp_path / "w" / "shards") == hashes(labelled / "shards")
