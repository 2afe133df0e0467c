"""Labels through the command line: the report of their quality, the ablation, and every row of the catalog."""

import json

from sharding.catalog import keys
from sharding.records import find_records, read_record


def test_a_folder_with_truth_gets_a_report_and_a_contact_sheet(cli, tiny, tmp_path):
    truth = "${workdir}/corpus/cave/truth/{scene}_instances.png"
    words = [tiny, f"workdir={tmp_path}", f"datasets.0.truth={truth}", "until=pseudolabel"]
    code, out, err = cli("run", *words)
    assert code == 0, out + err
    assert "Quality of the labels" in out and "Against the truth" in out and "│ pretrain" not in out
    told = json.loads((tmp_path / "shards" / "cave" / "quality.json").read_text())
    assert told["scenes"] == told["scenes_with_truth"] == 4 and told["unlabelled"] == 0
    assert (told["tiles"], told["valid_share"], told["tiles_below_half"]) == (4, 1.0, 0) and "0 of 4" in out
    assert sum(told["by_source"].values()) == sum(told["by_size"].values()) == told["masks"]
    assert {"ASA at 1 x", "UE at 1 x", "recall at 1.5 x", "precision at 1.5 x"} <= set(told["truth"]["fused"])
    assert (tmp_path / "shards" / "cave" / "quality.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "shards" / "hotvis" / "quality.json").read_text())["scenes_with_truth"] == 0
    shard, *_ = sorted((tmp_path / "shards" / "cave").glob("*.tar"))
    code, out, err = cli("inspect", shard, "--out", tmp_path / "shown.png")
    assert code == 0 and "samples" in out and (tmp_path / "shown.png").is_file(), out + err
    code, out, err = cli("run", *words)
    assert code == 0 and "nothing to do" in out, out + err
    ablation = ["ablation.seeds=1", "ablation.size=64", "ablation.sensors=[libhsi]", "ablation.fit=true"]
    code, out, err = cli("pseudolabel", "ablate", *words, *ablation)
    assert code == 0, out + err
    for word in (
        "no shade step",
        "look-alikes",
        "paired by scene",
        "scenes of datasets with some truth",
        "weights for",
    ):
        assert word in out, word
    summary = json.loads((tmp_path / "ablation" / "summary.json").read_text())
    assert summary["simulated"]["scenes"] == 1 and summary["real"]["scenes"] == 4
    assert (tmp_path / "ablation" / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    code, out, err = cli("pseudolabel", "ablate", *words, *ablation)
    assert code == 0 and "nothing to do" in out, out + err


def test_a_damaged_shard_says_which_samples_are_gone_and_a_rerun_repairs_it(cli, tiny, tmp_path):
    words = [tiny, f"workdir={tmp_path}", "until=pseudolabel"]
    assert cli("run", *words)[0] == 0
    record = read_record(next(find_records(tmp_path / "shards" / "cave")))
    shard = tmp_path / "shards" / "cave" / f"{record.unit}.tar"
    whole = shard.read_bytes()
    first, *others = record.extra["index"]
    assert others, "the shard holds several samples"
    offset, _ = record.extra["index"][first]["cube.bands"]
    for harmed, gone in (
        (whole[: offset + 9] + bytes([whole[offset + 9] ^ 1]) + whole[offset + 10 :], [first]),
        (whole[: offset + 99], [first, *others]),
        (None, [first, *others]),
    ):
        shard.unlink()
        if harmed is not None:
            shard.write_bytes(harmed)
        code, out, _ = cli("verify", tmp_path)
        assert code == 1 and f"{len(gone)} of {1 + len(others)} samples gone: {', '.join(gone)}" in out, out
    code, out, _ = cli("verify", tmp_path, "--discard")
    assert code == 0 and "1 broken units removed; run their stage again" in out
    code, out, err = cli("run", *words)
    assert code == 0 and shard.read_bytes() == whole, out + err


def test_wrong_words_are_one_sentence(cli, tiny, tmp_path):
    code, _, err = cli("pseudolabel", "ablate", f"workdir={tmp_path}", "ablation.sensors=[nose]")
    assert code == 2 and "ablation: 'nose' is not one of cave, deephsnir" in err
    code, _, err = cli("run", tiny, f"workdir={tmp_path}", "until=lunch")
    assert code == 2 and "until=lunch: the stages of this recipe are corpus, ingest, pseudolabel" in err


def test_every_row_of_the_catalog_is_labelled_in_one_command(cli, tmp_path):
    code, out, err = cli("run", "fakes", f"workdir={tmp_path}")
    assert code == 0, out + err
    shards = [read_record(path) for path in find_records(tmp_path / "shards")]
    assert {record.unit.rpartition("-")[0] for record in shards} == set(keys())
    assert all(record.done and record.counts["samples"] and not record.failures for record in shards)
