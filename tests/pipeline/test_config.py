"""Recipes, overrides and their refusals; wrong input through the command line is one sentence and an exit code."""

import os
import subprocess

import numpy as np
import pytest
import yaml

from pipeline.config import load_config, recipe_names
from sharding.errors import ConfigError
from sharding.generator.corpus import PLACES
from sharding.generator.fakes import write_fake
from sharding.generator.formats import WRITERS, write_mat
from sharding.records import find_records
from sharding.store import open_cube

ONE = ["dataset=cave", "root=/data/CAVE"]


def test_recipes_load_and_overrides_reach_their_place(tmp_path):
    assert {"demo", "one_gpu"} <= set(recipe_names())
    config = load_config(
        "one_gpu", [f"workdir={tmp_path}", "datasets.0.name=cave", "datasets.0.root=/data/CAVE", "pretrain.lr=1e-3"]
    )
    assert config.datasets[0].root == "/data/CAVE" and config.pretrain.lr == 1e-3 and config.work == tmp_path
    bare = load_config("one_gpu", [*ONE, "teacher.mode=none", "pseudolabel.segmenters=classical"])
    bare.check()
    demo = load_config("demo", [f"workdir={tmp_path}"])
    assert demo.datasets[0].root == f"{tmp_path}/corpus/cave/raw"
    assert yaml.safe_load(demo.yaml())["pretrain"]["run"] == "demo"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain.stepz=3", *ONE], "there is no key pretrain.stepz; did you mean pretrain.steps?"),
        (["datasets.0.nmae=cave"], "there is no key datasets.0.nmae; did you mean datasets.0.name?"),
        (["pretrain.steps=many", *ONE], "pretrain.steps"),
        (["steps", *ONE], "'steps' is not key=value"),
        (["datasets.3.name=cave"], "has 0 entries, no entry 3"),
        ([], "no dataset is given"),
        ([*ONE, "datasets.1.name=cave", "datasets.1.root=/x"], "is given twice"),
    ],
)
def test_wrong_overrides_say_what_to_do(words, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config("one_gpu", words)
    assert sentence in str(caught.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean one_gpu"):
        load_config("onegpu", ONE)


def one_sentence(result, code, *parts):
    got, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert got == code and len(lines) == 1 and "Traceback" not in err, err
    for part in parts:
        assert part in lines[0], lines[0]


def test_missing_and_empty_folders_and_misspelt_keys(cli, tmp_path):
    work = f"workdir={tmp_path / 'w'}"
    one_sentence(
        cli("ingest", work, "dataset=cave", f"root={tmp_path / 'none'}"), 2, "none is not a folder", "set the root"
    )
    (tmp_path / "empty").mkdir()
    one_sentence(cli("ingest", work, "dataset=cave", f"root={tmp_path / 'empty'}"), 2, "no file below", "check root=")
    one_sentence(cli("ingest", work, "dataset=cave", "rot=x"), 2, "there is no key rot; did you mean")
    assert not (tmp_path / "w").exists()


def test_bad_scenes_become_rows_and_the_exit_code_tells(cli, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        write_mat(tmp_path / f"s{index}.mat", rng.random((16, 16, 31)).astype(np.float32))
    cut = tmp_path / "s1.mat"
    cut.write_bytes(cut.read_bytes()[:5000])
    words = ("ingest", f"workdir={tmp_path / 'w'}", "dataset=cave", f"root={tmp_path}")
    one_sentence(cli(*words), 1, "1 of 3 units failed", "s1.mat", "get the file again", "--retry-failed")
    code, out, _ = cli(*words, "max_failed_fraction=0.5")
    assert code == 0 and "3 (0 new)" in out and "nothing to do" in out and "failed" in out and "s1.mat" in out
    write_mat(cut, rng.random((16, 16, 31)).astype(np.float32))
    code, out, _ = cli(*words)
    assert code == 0 and "3 (1 new)" in out


def test_a_cut_file_of_every_container_fails_its_stage(cli, tmp_path):
    """Four datasets of one cut scene each, one of them with its wavelengths in micrometres instead."""
    rng = np.random.default_rng(0)
    words = []
    for number, (key, writer) in enumerate(
        {k: WRITERS[k] for k in ("cave", "libhsi", "hotvis", "hyperspectralcityv2")}.items()
    ):
        path = tmp_path / key / PLACES[key].format(i=0)
        path.parent.mkdir(parents=True)
        wl = tuple((450.0 + 10 * i) / (1000 if key == "libhsi" else 1) for i in range(16 if key == "hotvis" else 31))
        writer(path, rng.random((16, 16, len(wl))).astype(np.float32), wl)
        if key != "libhsi":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        words += [f"datasets.{number}.name={key}", f"datasets.{number}.root={tmp_path / key}"]
    result = cli("ingest", f"workdir={tmp_path / 'w'}", *words)
    one_sentence(result, 1, "4 of 4 units failed", "looks like micrometres", "cut short")
    _, out, _ = cli("status", f"workdir={tmp_path / 'w'}", *words)
    for key, name in PLACES.items():
        assert (key not in words[0::2]) or name.format(i=0).split("/")[-1] in out
    assert not list((tmp_path / "w" / "cubes").glob("*.zarr/*"))


def test_no_permission_is_one_sentence_of_the_command_line(cli, tmp_path):
    (tmp_path / "raw").mkdir()
    write_mat(tmp_path / "raw" / "s.mat", np.random.default_rng(0).random((16, 16, 31)).astype(np.float32))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.geteuid() == 0 and subprocess.run(["chattr", "+i", str(locked)], capture_output=True).returncode:
        pytest.skip("the file system has no immutable flag")
    try:
        result = cli("ingest", f"workdir={locked / 'w'}", "dataset=cave", f"root={tmp_path / 'raw'}")
        one_sentence(result, 2, "cannot write", "no permission to write there", "set workdir=")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", str(locked)], check=True)


def test_a_full_disk_stops_a_stage_with_one_sentence_and_no_false_claim(cli, tmp_path):
    rng = np.random.default_rng(0)
    raw, work = tmp_path / "raw", tmp_path / "small"
    raw.mkdir()
    work.mkdir()
    for index in range(4):
        write_mat(raw / f"s{index}.mat", rng.random((96, 96, 31)).astype(np.float32))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(work)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        words = (f"workdir={work}", "dataset=cave", f"root={raw}")
        one_sentence(cli("ingest", *words), 2, "cannot write", "the disk is full", "run the same command again")
        # A worker that was stopped in the middle may leave its temporary folder, which the next run sweeps away.
        code, out, _ = cli("verify", work / "cubes") if list(find_records(work / "cubes")) else (0, "0 broken", "")
        assert code == 0 and "0 broken" in out
        subprocess.run(["mount", "-o", "remount,size=64m", str(work)], check=True)
        code, out, err = cli("ingest", *words)
        assert code == 0, out + err
    finally:
        subprocess.run(["umount", "-l", str(work)], check=True)


def test_a_recipe_goes_over_its_base(tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text("base: demo\nworkdir: elsewhere\npretrain: {steps: 7, sample: {prompts: 3}}\n")
    config, demo = load_config(str(above), []), load_config("demo", [])
    assert config.pretrain.steps == 7 and config.pretrain.sample.prompts == 3 and config.work.name == "elsewhere"
    assert config.pretrain.sample.bands_max == demo.pretrain.sample.bands_max and len(config.datasets) == len(
        demo.datasets
    )
    above.write_text(f"base: {above}\n")
    with pytest.raises(ConfigError, match="is its own base"):
        load_config(str(above), [])


def test_a_low_rank_scene_is_kept_or_expanded_as_asked_and_a_change_of_mind_is_told(cli, tmp_path):
    axis = np.linspace(449.0, 957.0, 128).tolist()
    write_fake("hyperspectralcityv2", tmp_path / "raw", axis)
    words = ("ingest", f"workdir={tmp_path / 'w'}", "dataset=hyperspectralcityv2", f"root={tmp_path / 'raw'}")
    code, out, err = cli(*words)
    assert code == 0, out + err
    (scene,) = (tmp_path / "w" / "cubes" / "hyperspectralcityv2.zarr").iterdir()
    assert open_cube(scene).basis is not None
    code, out, _ = cli("inspect", scene, "--out", tmp_path / "p.png")
    assert code == 0 and "54 components" in out
    one_sentence(cli(*words, "expand=true"), 2, "the configuration changed (expand: False -> True)", "--overwrite")
    code, out, err = cli(*words, "expand=true", "--overwrite")
    assert code == 0 and open_cube(scene).basis is None, out + err
