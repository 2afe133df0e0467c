"""A program for one camera gives the maps of the model it was made from, with torch alone; the card says what it is."""

import subprocess
import sys

import pytest
import torch

from hypervision import card, create_model, export_program

WL = tuple(450.0 + 5 * i for i in range(25))
RUN = """
import sys, torch
maps = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2]))
assert not any(name.startswith("hypervision") for name in sys.modules)
torch.save(list(maps), sys.argv[3])
"""


@pytest.mark.parametrize(
    "options", [{}, {"input_mode": "shape"}, {"merge_blocks": (1,), "embedding": "interpolated", "image_size": 64}]
)
def test_a_program_runs_without_this_package(tmp_path, options):
    torch.manual_seed(0)
    model = create_model("hypervision_nano", **options)
    cube = torch.rand(2, len(WL), 48, 40)
    export_program(model, tmp_path / "m.pt2", WL, 0.01, (48, 40), batch=2)
    torch.save(cube, tmp_path / "cube.pt")
    files = [tmp_path / name for name in ("m.pt2", "cube.pt", "maps.pt")]
    subprocess.run([sys.executable, "-I", "-c", RUN, *map(str, files)], check=True, cwd=tmp_path, capture_output=True)
    with torch.no_grad():
        wanted = model.encode(cube, WL, 0.01)
    found = torch.load(tmp_path / "maps.pt")
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_size_that_does_not_fit_and_a_camera_that_is_not_seen(tmp_path):
    model = create_model("hypervision_nano")
    with pytest.raises(ValueError, match="no multiple of the patch size 4"):
        export_program(model, tmp_path / "m.pt2", WL, 0.01, (50, 40))
    with pytest.raises(ValueError, match="this model cannot see it"):
        export_program(model, tmp_path / "m.pt2", (2900.0,), 0.01, (48, 40))


def test_the_card_tells_maps_and_their_strides():
    told = card(create_model("hypervision_base", image_size=64, embed_dim=32, depth=6, num_heads=2,
                             global_blocks=[1, 3, 5], merge_blocks=[2, 6]))  # fmt: skip
    assert [(row["name"], row["channels"], row["stride"]) for row in told["maps"]] == [
        ("block_1", 32, 16), ("block_2", 32, 16), ("block_5", 32, 32), ("neck", 256, 32),
    ]  # fmt: skip
    assert told["normalisation"].startswith("divide each cube by its maximum") and told["sees_nm"] == [390, 2510]
