"""A small recipe on shards that are made from integers alone, so that no labelling plays a part."""

from pathlib import Path

import numpy as np

from hypervision.sizes import SIZES
from sharding.generator.tiles import tile_sample
from sharding.records import Body, Unit, commit
from sharding.shards import described, write_shard

DEPTH = 6
PATTERN = ("global_blocks", "merge_blocks")
RECIPE = """
datasets: [{name: golden, root: nowhere}]
teacher: {mode: none}
model:
  name: hypervision_nano
  options: {image_size: 48, embed_dim: 32, depth: 2, num_heads: 2, global_blocks: [0, 1], neck_dim: 32}
pretrain:
  {run: golden, steps: 6, global_batch: 4, micro_batch: 2, precision: fp32, ranks: 1, threads: 1, lr: 0.003,
   loader: {workers: 0}, sample: {bands_min: 10, bands_max: 16, prompts: 2, max_masks: 8}}
"""


def reduced(name):
    """Options that make a named model small and keep its merging and its pattern of attention."""
    size = SIZES[name]
    blocks = {key: [block * DEPTH // size.depth for block in getattr(size, key)] for key in PATTERN}
    small = {"embed_dim": 32, "num_heads": 2, "neck_dim": 32, "semantic_window": 2}
    return small | ({"depth": DEPTH, "image_size": 64, **blocks} if size.depth > DEPTH else {})


def sample(number, height=48, width=48):
    """Four fields of three materials, a gradient over each, whole numbers only."""
    y, x = np.mgrid[:height, :width]
    split = 20 + 2 * number
    instances = 1 + (y >= split) + 2 * (x >= width - 4 - split)
    materials = np.array([0, 1, 2, 3, 1])[instances]
    bands = np.arange(24)[:, None, None]
    stored = 400 + 37 * materials * (bands % (materials + 4)) + 3 * y + 2 * x + (7 * y * x + 13 * bands + number) % 29
    return tile_sample(f"golden-{number}", stored.astype(np.uint16), labels=(instances, materials))


def make_work(work: Path, height: int = 48, width: int = 48) -> Path:
    """A work folder with one shard of six samples; its recipe."""
    data = work / "shards" / "golden" / "golden-00000.tar"

    def write(path):
        write_shard(path, (sample(number, height, width) for number in range(6)))
        return Body({"samples": 6}, extra=described(path))

    commit(Unit("pseudolabel", "golden-00000", data, data.with_suffix(".json"), "integers", {}), write)
    recipe = work / "golden.yaml"
    recipe.write_text(RECIPE)
    return recipe
