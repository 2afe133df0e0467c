"""Frames: any bands decode alone and exactly, groups and rounding keep what they promise, damage is noticed."""

import numpy as np
import pytest
from numcodecs import Blosc

from sharding.errors import ConfigError, InputError
from sharding.frames import Frames, PackingConfig, choose_codec, encode_frames, noise_of, round_planes


def cube(dtype="<u2", bands=11, noise=6.0):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    smooth = 900 + 300 * np.sin(y / 9) * np.cos(x / 7)
    values = smooth * np.linspace(0.5, 1.5, bands)[:, None, None] + rng.normal(0, noise, (bands, 40, 48))
    if dtype == "|u1":
        values = values / 8
    if dtype == "<i2":
        values = values - 700
    return np.round(values).astype(dtype)


def packed(stored, **packing):
    data, told = encode_frames(stored, PackingConfig(**packing))
    meta = {"shape_CHW": stored.shape, "scale": 0.5, "offset": 3.0, **told}
    frames = Frames.of(meta)
    return frames, {i: data[frames.start[i] : frames.start[i + 1]] for i in range(len(stored))}, meta


@pytest.mark.parametrize("dtype", ["<u2", "<i2", "|u1", "<f4"])
@pytest.mark.parametrize("group", [1, 2, 4, 16])
def test_any_bands_in_any_order_come_back_exactly_from_the_frames_they_need(dtype, group):
    stored = cube(dtype)
    frames, data, _ = packed(stored, group=group)
    for bands in ([3], [10, 0, 5], list(range(11))):
        needed = frames.needed(bands)
        assert set(bands) <= set(needed) and len(needed) <= 2 * len(bands)
        out = np.empty((len(bands), 40, 48), dtype)
        frames.stored_into({i: data[i] for i in needed}, bands, out)
        np.testing.assert_array_equal(out, stored[bands])
        physical = np.empty(out.shape, np.float32)
        frames.physical_into({i: data[i] for i in needed}, bands, physical)
        np.testing.assert_allclose(physical, stored[bands].astype(np.float32) * 0.5 + 3, rtol=1e-6)
    assert frames.needed(None) == list(range(11))


@pytest.mark.parametrize("group", [1, 4])
def test_bands_with_scales_of_their_own(group):
    stored = cube()
    data, told = encode_frames(stored, PackingConfig(group=group))
    scale, offset = [0.5 + band for band in range(11)], [3.0 - band for band in range(11)]
    frames = Frames.of({"shape_CHW": stored.shape, "scale": scale, "offset": offset, **told})
    parts = {i: data[frames.start[i] : frames.start[i + 1]] for i in range(11)}
    out = np.empty((2, 40, 48), np.float32)
    frames.physical_into(parts, [7, 2], out)
    np.testing.assert_allclose(out, [stored[7] * 7.5 - 4, stored[2] * 2.5 + 1], rtol=1e-6)


def test_extreme_values_survive_differences():
    stored = np.array([0, 65535, 1, 65534, 32768], np.uint16)[:, None, None] * np.ones((1, 4, 4), np.uint16)
    frames, data, _ = packed(stored, group=5)
    out = np.empty_like(stored)
    frames.stored_into(data, range(5), out)
    np.testing.assert_array_equal(out, stored)


def test_groups_take_fewer_bytes_where_bands_are_alike():
    def size(group):
        return sum(packed(cube(bands=16, noise=2.0), group=group)[2]["frame_bytes"])

    assert size(4) < 0.9 * size(1)


def test_noise_is_told_from_structure():
    assert np.all(np.abs(noise_of(cube(noise=6.0)) / 6 - 1) < 0.35)
    assert np.all(noise_of(cube(noise=0.0)) < 2)
    assert noise_of(cube()[:2]).tolist() == [0, 0]  # too few bands to tell: nothing is rounded


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_rounding_keeps_the_error_it_declares(share):
    stored = cube()
    stored[:, :5] = 0
    stored[:, 5] = 65535
    rounded, errors = round_planes(stored, share)
    wrong = np.abs(rounded.astype(int) - stored).max((1, 2))
    assert wrong.tolist() == errors and max(errors) > 0
    assert np.all(wrong <= share * noise_of(stored) + 1e-9)
    assert not rounded[:, :5].any() and np.all(rounded[:, 5] == 65535)
    _, _, meta = packed(stored, rounding=share)
    assert meta["rounding_error"] == errors
    assert sum(meta["frame_bytes"]) < sum(packed(stored)[2]["frame_bytes"])


def test_the_fast_codec_is_taken_where_it_costs_little():
    few_counts = list(cube(noise=2.0))
    chosen = [choose_codec(few_counts, slack).get_config()["cname"] for slack in (1.0, 10.0)]
    assert chosen[1] == "lz4hc"
    bits = np.random.default_rng(0).random((4, 64, 64, 16)) < 0.15  # nothing repeats, but entropy coding helps
    noisy = [np.packbits(plane, -1).view(np.uint16)[..., 0] for plane in bits]
    assert choose_codec(noisy, 1.04).get_config()["cname"] == "zstd"


def test_frames_are_plain_blosc():
    stored = cube()
    _, data, _ = packed(stored)
    np.testing.assert_array_equal(np.frombuffer(Blosc().decode(data[4]), "<u2").reshape(40, 48), stored[4])


def test_a_flipped_bit_is_noticed():
    frames, data, _ = packed(cube())
    broken = bytearray(data[2])
    broken[len(broken) // 2] ^= 4
    with pytest.raises(InputError, match="frame 2 of its cube is damaged"):
        frames.stored_into(data | {2: bytes(broken)}, [1, 2], np.empty((2, 40, 48), np.uint16))


def test_what_cannot_be_is_refused():
    for wrong in ({"group": 0}, {"rounding": -1.0}, {"rounding": 9.0}):
        with pytest.raises(ConfigError, match=r"pseudolabel\.packing"):
            PackingConfig(**wrong).check()
