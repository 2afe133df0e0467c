"""Jobs that are stopped, cut off or lose a node finish by themselves, and lose nothing."""

import contextlib
import json
import shutil

import psutil
import pytest
from cluster import ASK_SECONDS

from tests.waiting import wait_for

pytestmark = pytest.mark.system


def losses(work, run):
    path = work / "runs" / run / "metrics.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()] if path.is_file() else []


def train_words(tiny, work, run, steps):
    every = ("pretrain.save_every=5", "pretrain.pictures_every=0", "pretrain.probe_every=0")
    return (tiny, f"workdir={work}", "until=pretrain", f"pretrain.run={run}", f"pretrain.steps={steps}", *every)


@pytest.fixture(scope="module")
def whole(cli, tiny, labelled):
    """The losses of an uninterrupted run on this machine."""
    code, out, err = cli("pretrain", *train_words(tiny, labelled, "whole", 40))
    assert code == 0, out + err
    return losses(labelled, "whole")


def of_node(name, word):
    """Processes that Slurm's node of this name started and whose command holds a word."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURMD_NODENAME") == name and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(cluster, tiny, work, site, steps=40):
    code, out = cluster.cli("submit", *train_words(tiny, work, "cut", steps), "--site", site)
    assert code == 0, out
    job = cluster.submitted(work)["pretrain"]
    wait_for(lambda: len(losses(work, "cut")) > 6, "the first steps")
    return job


def test_a_rank_killed_without_warning(cluster, tiny, site, work, whole):
    job = start(cluster, tiny, work, site())
    victims = of_node("n2", "pretrain.train")
    assert victims and cluster.jobs()[job]["NodeList"] == "n[1-2]"
    victims[0].kill()
    assert cluster.ended(job) == ["COMPLETED"], cluster.logs(work)
    assert cluster.jobs()[job]["Restarts"] == "1" and losses(work, "cut") == whole
    rows = [json.loads(line) for line in (work / "slurm" / "ended.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [71, 0] and "a process was killed" in rows[0]["why"]


def test_a_node_that_dies_silently(cluster, tiny, site, work, whole):
    job = start(cluster, tiny, work, site())
    daemon = psutil.Process(int((cluster.folder / "slurmd.n2.pid").read_text()))
    for process in (daemon, *daemon.children(recursive=True), *of_node("n2", "pretrain")):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.call("scontrol", "update", "nodename=n2", "state=down", "reason=dead")
    wait_for(
        lambda: cluster.states(job) == ["PENDING"] or cluster.jobs()[job]["Restarts"] == "1",
        "the job again",
        ASK_SECONDS,
    )
    cluster.start_node("n2")
    assert cluster.ended(job) == ["COMPLETED"], cluster.logs(work)
    assert cluster.jobs()[job]["Restarts"] == "1" and losses(work, "cut") == whole


def test_a_job_longer_than_its_time_limit_goes_on_by_itself(cluster, tiny, site, work):
    limit = site(pretrain={"time": "1", "signal": "B:USR1@10"})
    code, out = cluster.cli("submit", *train_words(tiny, work, "cut", 100_000), "--site", limit)
    assert code == 0, out
    job = cluster.submitted(work)["pretrain"]
    wait_for(lambda: cluster.jobs()[job].get("Restarts") == "1", "a second start", ASK_SECONDS)
    before = len(losses(work, "cut"))
    assert before > 0, cluster.logs(work)
    wait_for(lambda: len(losses(work, "cut")) > before, "the next steps")
    steps = [json.loads(line)["step"] for line in (work / "runs/cut/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps))), "nothing twice, nothing left out"
    cluster.call("scancel", job)
    assert cluster.ended(job) == ["CANCELLED"] and "its time was up" in cluster.logs(work)
    wait_for(lambda: not of_node("n1", "batch"), "the end of what could queue it again")
    assert cluster.states(job) == ["CANCELLED"], "who cancels a job does not see it come back"


def test_a_job_told_to_stop_is_queued_again_with_a_checkpoint(cluster, tiny, site, work, whole):
    job = start(cluster, tiny, work, site())
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    assert cluster.ended(job) == ["COMPLETED"], cluster.logs(work)
    assert cluster.jobs()[job]["Restarts"] == "1" and losses(work, "cut") == whole
    rows = [json.loads(line) for line in (work / "slurm" / "ended.jsonl").read_text().splitlines()]
    assert [(row["code"], row["again"]) for row in rows] == [(75, True), (0, False)]
    assert "is warned" not in cluster.logs(work), "600 s are enough for these saves"


def test_a_warning_that_is_too_late_for_a_save_is_told(cluster, tiny, site, work):
    short = site(pretrain={"signal": "B:USR1@0"})
    for _ in range(2):  # the second time it is known how long a save takes
        code, out = cluster.cli("submit", *train_words(tiny, work, "cut", 6), "--site", short)
        assert code == 0, out
        job = cluster.submitted(work)["pretrain"]
        assert cluster.ended(job) == ["COMPLETED"], cluster.logs(work)
        assert "set signal: B:USR1@60 for pretrain" in cluster.logs(work)
        newest = work / "runs/cut/checkpoints/step_00000006"
        newest.with_suffix(".json").unlink()
        shutil.rmtree(newest)
    assert "set signal: B:USR1@60 for pretrain" in out
