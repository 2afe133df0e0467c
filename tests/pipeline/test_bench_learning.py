"""`bench learning`: the verdict on numbers that are given, and the whole command on two tiny cameras."""

import json

import pytest

from pipeline.bench_learning import FALLS, MARGINS, SCORES, Learning, falls, gates, show

TINY = """
corpus: {size: 48, train: [cave], train_scenes: 4, probe: [cave, hotvis], probe_scenes: 6}
datasets:
  - {name: cave, root: "${workdir}/corpus/cave/raw"}
  - {name: cave_probe, row: cave, root: "${workdir}/corpus/cave_probe/raw", train: false}
  - {name: hotvis_probe, row: hotvis, root: "${workdir}/corpus/hotvis_probe/raw", train: false}
pseudolabel: {segmenters: classical, tile: 48, workers: 2}
teacher: {name: test_convnext2, allow_random: true, image_size: 64}
model:
  name: hypervision_nano
  options: {image_size: 48, embed_dim: 32, depth: 2, num_heads: 2, global_blocks: [0, 1], neck_dim: 32}
evidence: {probe_train_scenes: 3}
pretrain:
  {steps: 4, global_batch: 4, micro_batch: 4, precision: fp32, ranks: 1, threads: 1, loader: {workers: 0},
   sample: {bands_min: 20, bands_max: 24, prompts: 2, max_masks: 8}}
"""


def told(margin, ratio):
    """Two seeds in which `all` is so far ahead of the random start and its losses fell so far."""
    seeds = [0, 1]
    random = {str(seed): dict.fromkeys(SCORES, 0.5) for seed in seeds}
    trained = {str(seed): dict.fromkeys(SCORES, 0.5 + margin) for seed in seeds}
    fallen = {"all": {str(seed): dict.fromkeys(FALLS, ratio) for seed in seeds}}
    return Learning(seeds, {"all": trained, "random": random}, fallen, ["hotnir"])


def test_every_margin_decides(capsys):
    assert show(told(0.15, 0.3)) and "every margin holds" in capsys.readouterr().out
    assert not show(told(0.0, 0.3))
    out = capsys.readouterr().out
    assert "NOT held: in-scene, training sensors, in-scene, unseen sensors, pooled, unseen sensors" in " ".join(
        out.split()
    )
    assert not show(told(0.15, 0.9)) and all(f"{term} falls" in gates(told(0.15, 0.9)) for term in FALLS)


def test_one_bad_seed_is_enough():
    one = told(0.15, 0.3)
    one.scores["all"]["1"]["pooled, unseen sensors"] = 0.49
    found = gates(one)
    assert not found["pooled, unseen sensors"]["holds"]
    assert all(found[score]["holds"] for score in MARGINS if score != "pooled, unseen sensors")


def test_a_loss_falls_by_its_ends(tmp_path):
    rows = [{"step": step, "contrast": 4.0 - step * 0.02} for step in range(100)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert falls(tmp_path) == {"contrast": pytest.approx((4 - 89.5 * 0.02) / (4 - 9.5 * 0.02))}


def test_unknown_rows_are_refused_with_those_that_there_are(cli):
    code, _, err = cli("bench", "learning", "--rows", "magic")
    assert code == 2 and "rows are all, all-smooth, all-even, contrast-alone" in err


@pytest.mark.slow
def test_the_command_prints_its_tables_and_a_second_call_makes_nothing_anew(cli, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    words = ("bench", "learning", recipe, "--seeds", "3", "--rows", "ids-shuffled", "--folder", tmp_path / "b")
    code, out, err = cli(*words)
    assert code in (0, 1), out + err  # four steps teach nothing, but they run
    for row in ("all", "ids-shuffled", "random", "random-smooth", "spectra", "supervised"):
        assert f"│ {row}" in out
    assert (tmp_path / "b" / "learning.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((tmp_path / "b" / "learning.json").read_text())
    assert found["unseen"] == ["hotvis"] and set(found["scores"]["all"]["3"]) == set(SCORES)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("scores.json")}
    assert len(before) == 3
    again = cli(*words, "--json")
    assert json.loads(again[1])["scores"] == found["scores"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
