"""What the labels of a dataset are worth: sums of scenes and shards, and the shares that a person reads."""

from pseudolabel.quality import add_up, summary, tile_counts

SCENE = {
    "scenes": 1, "pixels": 100, "labelled": 80, "in_spatial": 90, "in_spectral": 70, "masks": 2, "score": 1.5,
    "agreement": 0.5, "by_source": {"spatial": 1, "spectral": 0, "both": 1}, "by_size": [0, 2, 0, 0, 0, 0, 0, 0],
    "with_truth": 0, "truth": {},
}  # fmt: skip


def test_a_tile_of_just_half_valid_pixels_is_not_below_half():
    assert tile_counts([100, 50, 49, 1], side=10) == {
        "tiles": 4, "tile_pixels": 400, "tile_valid": 200, "tiles_below_half": 2,
    }  # fmt: skip
    assert tile_counts([40, 41], side=9)["tiles_below_half"] == 1  # of 81 pixels


def test_the_share_of_valid_pixels_is_the_mean_over_all_tiles_of_all_scenes():
    full, sparse = SCENE | tile_counts([100, 100, 100], 10), SCENE | tile_counts([20], 10)
    told = summary(add_up([full, sparse]))
    assert (told["tiles"], told["valid_share"], told["tiles_below_half"]) == (4, 0.8, 1)
    assert (told["scenes"], told["unlabelled"]) == (2, 1 - 160 / 200)


def test_a_dataset_without_a_tile_has_no_share_that_looks_like_a_good_one():
    assert summary(SCENE | tile_counts([], 10))["valid_share"] == 0.0


def test_sums_add_up_over_scenes():
    one = {"n": 1, "by": {"a": 2}, "hist": [1, 0], "truth": {}}
    two = {"n": 2, "by": {"a": 1, "b": 5}, "hist": [0, 3], "truth": {"fused": {"ASA": 0.5}}}
    assert add_up([one, two]) == {"n": 3, "by": {"a": 3, "b": 5}, "hist": [1, 3], "truth": {"fused": {"ASA": 0.5}}}
    assert add_up([]) == {}
