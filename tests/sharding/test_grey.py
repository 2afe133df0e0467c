"""Grey pictures keep their numbers: shallow and deep ones, as mosaics and as bands; what is not used is noted."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sharding.catalog import Mosaic, Row
from sharding.errors import InputError
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0, 750.0]


def mosaic():
    return Row("mine", "mosaic-png", "*", NM, 0.01, mosaic=Mosaic(2))


def bands():
    return Row("mine", "png-bands", "*", NM, 0.01)


def png(path, numbers, bits, chunks=()):
    """A grey PNG of 1, 2, 4, 8 or 16 bits, made by hand; `chunks` come before the pixels."""
    height, width = numbers.shape

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b""
    for line in numbers:
        text = "".join(f"{int(number):0{bits}b}" for number in line)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *(chunk(*one) for one in chunks),
        chunk(b"IDAT", zlib.compress(lines)),
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def frame_of(cube):
    """A 2 x 2 mosaic of a cube of 4 bands."""
    height, width, _ = cube.shape
    return cube.reshape(height, width, 2, 2).transpose(0, 2, 1, 3).reshape(2 * height, 2 * width)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_png_of_any_depth_keeps_its_numbers(tmp_path, bits):
    cube = np.random.default_rng(bits).integers(0, 1 << bits, (3, 5, 4))
    cube[0, 0] = (1 << bits) - 1
    raw = open_raw(mosaic(), png(tmp_path / "a.png", frame_of(cube), bits))
    np.testing.assert_array_equal(raw.read(), cube)
    for band in range(4):
        png(tmp_path / f"s_{band}.png", cube[..., band], bits)
    raw = open_raw(bands(), tmp_path / "s_0.png")
    np.testing.assert_array_equal(raw.read(), cube)
    assert raw.dtype == (np.uint16 if bits == 16 else np.uint8)


@pytest.mark.parametrize("top", [70000, -5])
def test_deep_integers_do_not_wrap(tmp_path, ingested, top):
    cube = np.random.default_rng(0).integers(0, 4000, (3, 5, 4)).astype(np.int32)
    cube[0, 0, 0] = top
    Image.fromarray(frame_of(cube)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(open_raw(mosaic(), tmp_path / "a.tif").read(), cube)
    for band in range(4):
        Image.fromarray(np.ascontiguousarray(cube[..., band])).save(tmp_path / f"s_{band}.tif")
    got = ingested(bands(), tmp_path / "s_0.tif").window().physical().transpose(1, 2, 0)
    np.testing.assert_allclose(got, cube, atol=0.6 if top > 65534 else 1e-3)


def test_what_a_band_picture_says_beside_its_numbers_is_noted(tmp_path):
    numbers = np.arange(12).reshape(3, 4)
    for band in range(4):
        chunks = [(b"gAMA", struct.pack(">I", 45455))] if band == 2 else []
        chunks += [(b"tRNS", struct.pack(">H", 3))] if band == 3 else []
        png(tmp_path / f"s_{band}.png", numbers, 8, chunks)
    note = open_raw(bands(), tmp_path / "s_0.png").note
    assert "s_2.png" in note and "gAMA 0.45455 is not applied" in note and "s_3.png" in note and "tRNS" in note
    note = open_raw(mosaic(), png(tmp_path / "m.png", numbers[:2], 8, [(b"gAMA", struct.pack(">I", 45455))])).note
    assert "gAMA 0.45455 is not applied" in note


def test_lossy_packing_is_refused(tmp_path):
    frame = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    for name, more in (("a.jpg", {}), ("a.tif", {"compression": "jpeg"}), ("a.webp", {"lossless": False})):
        Image.fromarray(frame).save(tmp_path / name, **more)
        with pytest.raises(InputError, match=r"packed as|one grey channel"):
            open_raw(mosaic(), tmp_path / name)
    for band in range(4):
        Image.fromarray(frame).save(tmp_path / f"s_{band}.jpg")
    with pytest.raises(InputError, match="changes the values of a band; save it as PNG"):
        open_raw(bands(), tmp_path / "s_0.jpg")


def test_white_as_zero_is_refused(tmp_path):
    import tifffile

    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), dtype), photometric="miniswhite")
        with pytest.raises(InputError, match="white as zero"):
            open_raw(mosaic(), tmp_path / "a.tif")


def test_pictures_of_bands_carry_what_lies_beside_each(tmp_path, ingested):
    cube = np.arange(48).reshape(3, 4, 4)
    for band in range(4):
        png(tmp_path / f"s_{band}.png", cube[..., band], 8)
    notes = '<PAMDataset><PAMRasterBand band="1"><Scale>0.5</Scale></PAMRasterBand></PAMDataset>'
    (tmp_path / "s_2.png.aux.xml").write_text(notes)
    got = ingested(bands(), tmp_path / "s_0.png")
    np.testing.assert_allclose(got.window().physical().transpose(1, 2, 0), cube * [1, 1, 0.5, 1])


def test_a_picture_that_lies_turned_is_refused(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(InputError, match="lies turned"):
        open_raw(mosaic(), tmp_path / "a.tif")


def test_text_in_a_picture_is_no_matter(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a scene")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    assert open_raw(mosaic(), tmp_path / "a.png").note == ""
