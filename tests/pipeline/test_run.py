"""The whole pipeline through the command line: Ray actors, two DeepSpeed ranks, kills, nothing left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from hypervision import create_model
from pipeline.tracking import quiet_client
from sharding.records import find_records, read_record
from tests.waiting import SAFETY_SECONDS, taken, wait_for


@pytest.fixture(scope="module", autouse=True)
def temporary():
    """A folder for temporary files of these runs alone: what other tests leave behind is not theirs."""
    before = tempfile.gettempdir()  # this process keeps its own
    folder = Path(tempfile.mkdtemp(prefix="r", dir=before))  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(cli, tiny, temporary, tmp_path_factory):
    """A finished run: (work folder, what it printed)."""
    work = tmp_path_factory.mktemp("run") / "w"
    code, out, err = cli("run", tiny, f"workdir={work}")
    assert code == 0, out + err
    return work, out


def hashes(work: Path) -> dict[str, str]:
    """Content of every unit: weights for checkpoints (DeepSpeed's own files hold times), bytes for the rest."""
    found = {}
    for path in find_records(work):
        record = read_record(path)
        files = record.files
        found[str(path.relative_to(work))] = files.get("weights.safetensors", [0, record.sha256])[1]
    return found


def belonging_to(*folders: Path) -> list[str]:
    """Processes whose command line or temporary folder is that of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), process.environ().get("TMPDIR", "")])
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in words for folder in folders):
            found.append(words)
    return found


def wait_until_gone(*folders: Path) -> None:
    wait_for(lambda: not belonging_to(*folders), "the end of all processes of a run")


def test_it_ends_with_a_table_a_picture_and_nothing_left_over(undisturbed, temporary):
    work, out = undisturbed
    for stage in ("corpus", "ingest", "pseudolabel", "pretrain", "export", "compare"):
        assert f"│ {stage}" in out
    assert "classical stand-ins" in out and "RANDOM weights" in out
    assert (work / "report.png").read_bytes()[:4] == b"\x89PNG"
    rows = [json.loads(line) for line in (work / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8))
    assert {"contrast", "masks", "distil", "spectra", "loss", "lr", "grad_norm", "data_wait_share"} <= set(rows[0])
    probed = [row["step"] for row in rows if 0 <= row.get("probe/held", -1) <= 1]
    pictures = sorted(path.name for path in (work / "runs" / "tiny" / "pictures").iterdir())
    assert probed == [3, 7] and pictures == ["step_00000004.png", "step_00000008.png"]
    wait_until_gone(work, temporary)
    assert not list(work.rglob("*.tmp-*")) and not list(temporary.glob("hv-ray-*"))


def test_the_recipe_its_stages_and_their_data_are_in_mlflow(undisturbed):
    work, _ = undisturbed
    client = quiet_client(f"sqlite:///{work / 'mlflow.db'}")
    runs = {run.data.tags["hv.stage"]: run for run in client.search_runs(["1"])}
    assert set(runs) == {"recipe", "ingest", "pseudolabel", "cache-teacher", "pretrain", "export"}
    parent = runs.pop("recipe")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert parent.data.params["pretrain.steps"] == "8" and parent.data.params["pseudolabel.tile"] == "48"
    train, labels = runs["pretrain"], runs["pseudolabel"]
    inputs = {one.dataset.name: one.dataset.digest for one in train.inputs.dataset_inputs}
    assert (
        set(inputs) == {"cave shards", "hotvis shards"} and train.data.tags["hv.cave.shards"] == inputs["cave shards"]
    )
    assert {"cave cubes", "held cubes"} <= {one.dataset.name for one in labels.inputs.dataset_inputs}
    assert labels.data.tags["hv.cave.labels"] and labels.data.params["tile"] == "48"
    assert runs["ingest"].data.params["datasets.cave"].endswith("corpus/cave/raw")
    assert [one.step for one in client.get_metric_history(train.info.run_id, "loss")] == list(range(8))
    files = {name: {one.path for one in client.list_artifacts(run.info.run_id)} for name, run in runs.items()}
    assert {"config.yaml", "spec.json", "step_00000008.png"} <= files["pretrain"] and "cave" in files["pseudolabel"]
    assert {one.path for one in client.list_artifacts(parent.info.run_id)} == {"config.yaml", "report.png"}


def test_a_second_run_does_nothing_and_says_so(cli, tiny, undisturbed):
    work, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    code, out, err = cli("run", tiny, f"workdir={work}")
    assert code == 0 and "nothing to do: everything is done already" in out, out + err
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


def test_teacher_features_were_filled_on_the_way(undisturbed):
    work, _ = undisturbed
    records = [read_record(path) for path in find_records(work / "teacher")]
    assert sum(record.counts["samples"] for record in records) == 8
    assert not list((work / "teacher").rglob("*.spool"))


def test_teacher_features_can_be_made_before_training(cli, tiny, undisturbed, tmp_path):
    work = tmp_path / "w"
    shutil.copytree(undisturbed[0], work, ignore=shutil.ignore_patterns("teacher", "runs"))
    words = (tiny, f"workdir={work}", "teacher.mode=cache")
    code, out, _ = cli("plan", *words)
    assert code == 0 and "cache-teacher" in out and "of disk (fp16)" in out, out
    code, out, err = cli("pretrain", *words)
    assert code == 2 and "lacks features of some samples; set teacher.mode=fill, or run cache-teacher" in err
    code, out, err = cli("cache-teacher", *words)
    assert code == 0 and "cache-teacher" in out and "RANDOM weights" in out, out + err
    want, got = (
        {path.name: read_record(path).sha256 for path in find_records(folder / "teacher")}
        for folder in (undisturbed[0], work)
    )
    assert got == want and len(want) == 3
    code, out, err = cli("cache-teacher", *words)
    assert code == 0 and "nothing to do" in out, out + err
    code, out, err = cli("pretrain", *words)
    assert code == 0, out + err
    losses = [
        [json.loads(line)["loss"] for line in (folder / "runs/tiny/metrics.jsonl").open()]
        for folder in (undisturbed[0], work)
    ]
    assert losses[0] == losses[1]


def test_the_export_loads_through_the_public_api(undisturbed):
    work, _ = undisturbed
    export = work / "runs" / "tiny" / "export"
    model = create_model("hypervision_nano", checkpoint=export / "model.safetensors")
    maps = model.encode(torch.rand(1, 31, 48, 48), [400.0 + 10 * i for i in range(31)], 0.001)
    assert [tuple(m.shape) for m in maps] == [(1, 32, 12, 12), (1, 32, 6, 6), (1, 32, 6, 6)]  # merged behind block 0
    about = json.loads((export / "model.json").read_text())
    assert (
        about["options"]["input_mode"] == "shape"
        and about["teacher_has_random_weights"]
        and "classical" in about["labelled_by"][0]
        and about["trained_on_nm"]["cave"] == [400.0, 700.0, 31]
    )


def test_verify_status_plan_inspect_and_dry_run(cli, tiny, undisturbed, tmp_path):
    work, _ = undisturbed
    code, out, _ = cli("verify", work)
    assert code == 0 and "0 broken" in out
    before = hashes(work)
    for verb in ("status", "plan"):
        code, out, err = cli(verb, tiny, f"workdir={work}")
        assert code == 0 and "pseudolabel" in out, out + err
    code, out, _ = cli("run", tiny, f"workdir={tmp_path / 'none'}", "--dry-run")
    assert code == 0 and "dry run" in out and not (tmp_path / "none").exists()
    assert hashes(work) == before
    shard = next((work / "shards" / "cave").glob("*.tar"))
    cube = next((work / "cubes" / "cave.zarr").iterdir())
    raw = next((work / "corpus" / "cave" / "raw").glob("*.mat"))
    for words in ((shard,), (cube,), (raw, "--row", "cave")):
        code, out, err = cli("inspect", *words, "--out", tmp_path / "p.png")
        assert code == 0 and (tmp_path / "p.png").stat().st_size > 5000, out + err
        (tmp_path / "p.png").unlink()


def test_missing_weights_are_refused_before_any_work(cli, tmp_path):
    code, _, err = cli("run", "one_gpu", f"workdir={tmp_path / 'w'}", "dataset=cave", f"root={tmp_path}")
    assert code == 2 and "SAM2 has no weights" in err and not (tmp_path / "w").exists()


def test_a_changed_setting_refuses_and_names_itself(cli, tiny, undisturbed):
    work, _ = undisturbed
    code, _, err = cli("pseudolabel", tiny, f"workdir={work}", "pseudolabel.fusion.stop_cost=0.4")
    assert code == 2 and "fusion.stop_cost: 0.5 -> 0.4" in err and "--overwrite" in err
    code, _, err = cli("pretrain", tiny, f"workdir={work}", "pretrain.lr=0.1", "pretrain.mixing.temperature=2")
    assert code == 2 and "pretrain.lr" in err and "pretrain.run=" in err
    assert "pretrain.mixing.temperature: 1.0 -> 2.0" in err


def test_a_replaced_shard_refuses_and_is_named(cli, tiny, undisturbed, tmp_path):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    record = work / "shards" / "cave" / "cave-00000.json"
    digest = read_record(record).sha256
    record.write_text(record.read_text().replace(digest, digest[::-1]))
    code, _, err = cli("pretrain", tiny, f"workdir={work}")
    assert code == 2 and "cave: shard cave-00000 was replaced; add --overwrite" in err


def harm_first_sample(work: Path, harm) -> str:
    """Change the json of the first sample in place, to as many bytes; returns its key."""
    index = read_record(work / "shards" / "cave" / "cave-00000.json").extra["index"]
    key, members = next(iter(index.items()))
    offset, size = members["json"]
    with (work / "shards" / "cave" / "cave-00000.tar").open("r+b") as file:
        file.seek(offset)
        harmed = harm(file.read(size))
        assert len(harmed) == size
        file.seek(offset)
        file.write(harmed)
    return key


def test_a_damaged_sample_stops_training_by_name_or_is_skipped_and_counted(cli, tiny, undisturbed, tmp_path):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    key = harm_first_sample(work, lambda told: b"?" + told[1:])
    words = ("pretrain", tiny, f"workdir={work}", "pretrain.run=other", "pretrain.loader.workers=1")
    code, _, err = cli(*words)
    assert code == 2 and f"sample {key}" in err and "run verify --discard, then pseudolabel again" in err
    code, out, err = cli(*words, "pretrain.loader.corrupt=skip")
    assert code == 0 and "damaged samples were skipped" in out, out + err
    rows = [json.loads(line) for path in (work / "runs/other").glob("skipped-*") for line in path.open()]
    assert {row["key"] for row in rows} == {key} and len({row["position"] for row in rows}) == len(rows) > 2
    last = json.loads((work / "runs/other/metrics.jsonl").read_text().splitlines()[-1])
    assert last["samples"] == {"cave": 16, "hotvis": 16}


def steps_logged(metrics: Path) -> int:
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def kill_at(launch, words: tuple, ready, *folders: Path) -> None:
    """Start a stage and kill -9 it when its work is that far; nothing of it stays."""
    process = launch(*words, start_new_session=True)
    wait_for(lambda: ready() or process.poll() is not None, f"the {words[0]} that is to be killed")
    process.kill()
    process.communicate()
    wait_until_gone(*folders)


def kill_before_the_end(launch, words: tuple, units: list[Path], seed: int, *folders: Path) -> None:
    """Kill a stage when it has made some of its units; the last one is held back, so that it cannot end before."""
    *units, last = units
    some = 1 + seed % len(units)
    with taken(last):
        kill_at(launch, words, lambda: sum(unit.is_file() for unit in units) >= some, *folders)
    assert not last.exists()


def test_kills_at_random_moments_and_a_rerun_give_the_same_units(cli, launch, tiny, undisturbed, temporary, tmp_path):
    work = tmp_path / "w"
    seed = int.from_bytes(os.urandom(2), "little")
    print(f"seed of the kills: {seed}")
    want = {name: value for name, value in hashes(undisturbed[0]).items() if not name.startswith(("runs/tiny/export",))}
    metrics = work / "runs" / "tiny" / "metrics.jsonl"
    for verb, folder in (("corpus", None), ("ingest", "cubes"), ("pseudolabel", "shards"), ("pretrain", None)):
        words = (verb, tiny, f"workdir={work}")
        if folder is not None:
            units = [work / name for name in want if name.startswith(folder)]
            kill_before_the_end(launch, words, units, seed, work, temporary)
        elif verb == "pretrain":  # whether or not it has ended by then, it must come to the same
            kill_at(launch, words, lambda: steps_logged(metrics) >= 1 + seed % 6, work, temporary)
        code, out, err = cli(*words)
        assert code == 0, out + err
    assert hashes(work) == want
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    other = [json.loads(line) for line in (undisturbed[0] / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in rows] == [(r["step"], r["loss"]) for r in other]


def test_stop_signals_save_end_with_their_own_code_and_lose_nothing(
    cli, launch, tiny, undisturbed, temporary, tmp_path
):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    # More steps than any machine takes before it hears the signal, and the learning rate soon at its height.
    options = ("pretrain.steps=100000", "pretrain.save_every=100000", "pretrain.warmup=1e-5", "pretrain.probe_every=0")
    words = ("pretrain", tiny, f"workdir={work}", *options)
    metrics = {name: work / "runs" / name / "metrics.jsonl" for name in ("whole", "stopped")}

    def stopped_after(name: str, steps: int, number: signal.Signals) -> int:
        process = launch(*words, f"pretrain.run={name}", start_new_session=True)
        wait_for(lambda: process.poll() is not None or steps_logged(metrics[name]) > steps, f"step {steps} of {name}")
        process.send_signal(number)
        out, err = process.communicate(timeout=SAFETY_SECONDS)
        assert process.returncode == 75, out + err
        done = steps_logged(metrics[name])
        assert f"training stopped on {number.name} after step {done} of 100000, with a checkpoint" in err
        assert (work / "runs" / name / "checkpoints" / f"step_{done:08d}.json").is_file()
        wait_until_gone(work, temporary)
        return done

    done = 0
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
        done, before = stopped_after("stopped", done + 2, number), done
        assert done > before + 2
    stopped_after("whole", done, signal.SIGTERM)
    losses = {name: [json.loads(line)["loss"] for line in path.open()] for name, path in metrics.items()}
    assert losses["stopped"] == losses["whole"][:done] and len(set(losses["stopped"])) == done


def test_a_loss_that_is_not_finite_is_dropped_counted_and_fatal_over_a_limit(cli, tiny, undisturbed, tmp_path):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    value = re.compile(rb'(?<="gsd_m": )[^,]+')
    key = harm_first_sample(work, lambda told: value.sub(lambda found: b"NaN".ljust(len(found[0])), told))
    words = ("pretrain", tiny, f"workdir={work}", "pretrain.run=other")
    code, out, err = cli(*words)
    assert code == 0 and "steps had no finite loss or gradient" in out, out + err
    rows = [json.loads(line) for path in (work / "runs/other").glob("dropped-*") for line in path.open()]
    assert rows and all(key in row["keys"] and "loss" in row["terms"] for row in rows)
    metrics = [json.loads(line) for line in (work / "runs/other/metrics.jsonl").open()]
    assert sum(row["dropped"] > 0 for row in metrics) == len({row["step"] for row in rows})
    assert all(row["loss"] == row["loss"] for row in metrics)
    code, _, err = cli(*words[:3], "pretrain.run=strict", "pretrain.max_dropped=0")
    assert code == 2 and "pretrain.max_dropped is 0; they held" in err and key in err


def test_one_rank_that_accumulates_is_two_ranks_and_goes_on_where_they_stopped(cli, tiny, undisturbed, tmp_path):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    code, out, err = cli("pretrain", tiny, f"workdir={work}", "pretrain.run=one", "pretrain.ranks=1")
    assert code == 0, out + err
    subprocess.run(["cp", "-r", str(work / "runs" / "tiny"), str(work / "runs" / "taken")], check=True)
    newest = work / "runs" / "taken" / "checkpoints" / "step_00000008"
    shutil.rmtree(newest)
    newest.with_suffix(".json").unlink()
    code, out, err = cli("pretrain", tiny, f"workdir={work}", "pretrain.run=taken", "pretrain.ranks=1")
    assert code == 0 and "8 (2 new)" in out, out + err
    rows = [json.loads(line) for line in (work / "runs" / "one" / "metrics.jsonl").open()]
    assert all(0 < row["mfu"] < 1 and row["memory_mb"] > 100 for row in rows)
    losses = [
        [json.loads(line)["loss"] for line in (work / "runs" / name / "metrics.jsonl").open()]
        for name in ("tiny", "one", "taken")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_a_broken_newest_checkpoint_is_passed_over_and_the_mean_of_the_weights_resumes_exactly(
    cli, tiny, undisturbed, tmp_path
):
    work = tmp_path / "w"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(work)], check=True)
    options = ("pretrain.ema=0.9", "pretrain.layer_decay=0.7", "pretrain.recompute=true", "pretrain.run=mean")
    words = (tiny, f"workdir={work}", *options)
    code, out, err = cli("pretrain", *words)
    assert code == 0, out + err
    newest = max((work / "runs" / "mean" / "checkpoints").glob("step_*[0-9]"))
    names = ("weights.safetensors", "mean_weights.safetensors")
    good = [(newest / name).read_bytes() for name in names]
    assert good[0] != good[1]
    (newest / names[1]).write_bytes(good[1][:-9])
    code, out, err = cli("pretrain", *words)
    assert code == 0 and "8 (2 new)" in out, out + err
    assert [(newest / name).read_bytes() for name in names] == good
    code, out, err = cli("export", *words)
    assert code == 0, out + err
    assert (work / "runs/mean/export/model.safetensors").read_bytes() == good[1]
    assert json.loads((work / "runs/mean/export/model.json").read_text())["mean_of_weights"] == 0.9
