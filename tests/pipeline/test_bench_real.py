"""`bench real`: from a scene of one's own with a label map to the table, by the command."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hypervision import create_model, save_weights

SMALL = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Four fields of two materials as an .npy with a label map beside it."""
    tmp_path = tmp_path_factory.mktemp("real")
    labels = np.repeat(np.repeat([[1, 2], [2, 1]], 12, 0), 12, 1).astype(np.uint8)
    wl = 450.0 + 10 * np.arange(24)
    spectra = np.stack([np.ones(24), 1 + np.sin(wl / 40), 1 + np.cos(wl / 40)])[labels]
    noise = np.random.default_rng(0).normal(0, 0.02, (24, 24, 24))
    (tmp_path / "raw").mkdir()
    np.save(tmp_path / "raw" / "farm.npy", (spectra + noise).astype(np.float32))
    Image.fromarray(labels).save(tmp_path / "farm_labels.png")
    row = {"key": "mine", "container": "npy", "files": "*.npy", "axes": "hwb", "units": "reflectance", "gsd_m": 1.0,
           "wavelength": wl.tolist()}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(row))
    dataset = {"name": "mine", "row": str(tmp_path / "mine.yaml"), "root": str(tmp_path / "raw"), "train": False,
               "truth": str(tmp_path / "{scene}_labels.png")}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"workdir": str(tmp_path / "work"), "datasets": [dataset]}))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(create_model("hypervision_nano", input_mode="shape", **SMALL), path)
    path.with_suffix(".json").write_text(json.dumps({"name": "hypervision_nano"}))
    return path


def test_weights_untrained_nets_and_spectra_stand_side_by_side(cli, recipe, weights):
    code, out, err = cli("bench", "real", recipe, "--model", f"mine={weights}", "--draws", 4, "--shots", 3)
    assert code == 0, err
    rows = ("mine, final", "mine, embedding", "random", "random, smooth", "spectra", "shape spectra")
    assert all(f"│ {row}" in out for row in rows) and "2-2 of 2 classes" in " ".join(out.split())
    kept = json.loads((recipe.parent / "work" / "real.json").read_text())
    (scores,) = kept["scores"].values()
    assert np.mean(scores["spectra"]) > 0.98 and all(len(draws) == 4 for draws in scores.values())
    code, again, _ = cli("bench", "real", recipe, "--model", f"mine={weights}", "--draws", 4, "--shots", 3, "--json")
    assert code == 0 and json.loads(again) == kept


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "mine=nowhere.safetensors"], "no weights at nowhere.safetensors"),
        (["--model", "nowhere"], "at least one --model NAME=FILE"),
        (["--model", "mine={weights}", "--shots", "500"], "no two classes of the scene have 500 pixels in one half"),
        (["--model", "mine={weights}", "datasets.0.truth=null", "workdir={other}"], "has a label map pixel on pixel"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_sentence(cli, recipe, weights, words, sentence, tmp_path):
    code, _, err = cli("bench", "real", recipe, *(word.format(weights=weights, other=tmp_path) for word in words))
    assert code != 0 and sentence in " ".join(err.split())
