"""What the tags of every page of a TIFF say, and what lies in a file of several pictures."""

import numpy as np
import pytest
import tifffile

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0, 750.0]
COUNTS = np.arange(100, 100 + 5 * 6 * 4).reshape(5, 6, 4).astype("u2")
PLANES = np.ascontiguousarray(COUNTS.transpose(2, 0, 1))


def row(**more):
    return Row("mine", "tiff", "*", NM, 0.01, axes=more.pop("axes", "bhw"), **more)


def ascii_tag(code, text):
    return code, "s", 0, text, True


def metadata(*items):
    body = "".join(f"<Item {where}>{text}</Item>" for where, text in items)
    return ascii_tag(42112, f"<GDALMetadata>{body}</GDALMetadata>")


def as_planes(path, planes=PLANES, tags=(), **more):
    tifffile.imwrite(
        path, planes, photometric="minisblack", planarconfig="separate", metadata=None, extratags=tags, **more
    )
    return path


def as_pages(path, planes=PLANES, tags=None):
    with tifffile.TiffWriter(path) as file:
        for band, plane in enumerate(planes):
            own = tags(band) if tags else []
            file.write(plane, photometric="minisblack", metadata=None, contiguous=False, extratags=own)
    return path


def values(cube):
    return cube.window().physical().transpose(1, 2, 0)


def test_gdal_nodata_of_planes_and_of_every_page(tmp_path, ingested):
    cube = ingested(row(), as_planes(tmp_path / "a.tif", tags=[ascii_tag(42113, "101 ")]))
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0]]
    pages = as_pages(tmp_path / "b.tif", tags=lambda band: [ascii_tag(42113, str(100 + 5 * band))])
    assert np.argwhere(~ingested(row(), pages).valid()).tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    floats = as_planes(
        tmp_path / "c.tif", np.where(PLANES == 101, np.nan, PLANES).astype("f4"), [ascii_tag(42113, "nan")]
    )
    assert np.argwhere(~ingested(row(), floats).valid()).tolist() == [[0, 0]]
    unfit = ingested(row(), as_planes(tmp_path / "d.tif", tags=[ascii_tag(42113, "-9999")]))
    assert unfit.valid().all() and "does not fit its type uint16" in unfit.attrs["note"]


def test_gdal_scale_and_offset_of_samples_and_of_pages(tmp_path, ingested):
    items = [('name="SCALE" sample="0" role="scale"', "0.5"), ('name="SCALE" sample="2" role="scale"', "0.25"),
             ('name="OFFSET" sample="2" role="offset"', "-7"), ('name="BAD_LINES"', "3")]  # fmt: skip
    cube = ingested(row(), as_planes(tmp_path / "a.tif", tags=[metadata(*items)]))
    want = COUNTS * [0.5, 1, 0.25, 1] + [0, 0, -7, 0]
    np.testing.assert_allclose(values(cube), want, rtol=1e-6)
    assert "not used, though it may matter: BAD_LINES = 3" in cube.attrs["note"]
    pages = as_pages(
        tmp_path / "b.tif", tags=lambda band: [metadata(('name="SCALE" sample="0" role="scale"', str(band + 1)))]
    )
    np.testing.assert_allclose(values(ingested(row(), pages)), COUNTS * [1, 2, 3, 4], rtol=1e-6)
    own = ingested(row(scale=2.0), as_planes(tmp_path / "c.tif", tags=[metadata(*items)]))
    assert (
        values(own)[0, 0, 1] == 202
        and "scale 2 of the row is used, the file says 0.25 to 1 by band" in own.attrs["note"]
    )
    with pytest.raises(InputError, match="'abc', not a finite number"):
        open_raw(row(), as_planes(tmp_path / "d.tif", tags=[metadata(('role="scale" name="s"', "abc"))]))


def test_notes_beside_the_file_go_before_its_tags(tmp_path, ingested):
    path = as_planes(tmp_path / "a.tif", tags=[ascii_tag(42113, "0")])
    band = '<PAMRasterBand band="{}"><NoDataValue>{}</NoDataValue></PAMRasterBand>'
    notes = "".join(band.format(number, 99 + number) for number in (1, 2))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{notes}</PAMDataset>")
    cube = ingested(row(), path)
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0]] and "nodata of a.tif.aux.xml used" in cube.attrs["note"]
    assert [source["file"] for source in cube.attrs["sources"]] == ["a.tif.aux.xml", "a.tif"]


@pytest.mark.parametrize(("code", "turn"), [
    (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]), (5, lambda a: a.swapaxes(0, 1)),
    (6, lambda a: np.rot90(a, -1)), (7, lambda a: a.swapaxes(0, 1)[::-1, ::-1]), (8, np.rot90),
])  # fmt: skip
def test_the_orientation_is_applied(tmp_path, code, turn):
    raw = open_raw(row(), as_planes(tmp_path / "a.tif", tags=[(274, "H", 1, code, True)]))
    np.testing.assert_array_equal(raw.read(), turn(COUNTS))
    assert raw.note == f"turned as its orientation {code} says"


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_as_zero_is_refused(tmp_path, dtype):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES.astype(dtype), photometric="miniswhite", planarconfig="separate", metadata=None)
    with pytest.raises(InputError, match="white as zero"):
        open_raw(row(), path)


def test_pages_that_differ_are_refused(tmp_path):
    path = as_pages(tmp_path / "a.tif", tags=lambda band: [(274, "H", 1, 1 + band % 2, True)])
    with pytest.raises(InputError, match="the orientation of its pages differs"):
        open_raw(row(), path)


def test_pictures_of_several_sizes_are_listed_and_one_is_named(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for planes in (PLANES, PLANES[:, :3]):
            file.write(planes, photometric="minisblack", planarconfig="separate", metadata=None)
    with pytest.raises(InputError, match=r"series 0 \(4, 5, 6\) uint16, series 1 \(4, 3, 6\) uint16.*variable: '0'"):
        open_raw(row(), path)
    np.testing.assert_array_equal(open_raw(row(variable="1"), path).read(), COUNTS[:3])
    with pytest.raises(InputError, match="has no series '7'"):
        open_raw(row(variable="7"), path)
    pages = tmp_path / "b.tif"
    with tifffile.TiffWriter(pages) as file:
        for band in range(4):
            file.write(PLANES[0, : 5 - band % 2], photometric="minisblack", metadata=None, contiguous=False)
    with pytest.raises(InputError, match=r"pictures of several sizes"):
        open_raw(row(), pages)


def test_an_overview_is_no_other_picture(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(PLANES, photometric="minisblack", planarconfig="separate", metadata=None)
        small = PLANES[:, ::2, ::2].copy()
        file.write(small, photometric="minisblack", planarconfig="separate", metadata=None, subfiletype=1)
    np.testing.assert_array_equal(open_raw(row(), path).read(), COUNTS)


def test_a_description_that_may_matter_is_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PLANES, photometric="minisblack", metadata={"scale": 0.0001, "who": "me"})
    note = open_raw(row(), tmp_path / "a.tif").note
    assert "scale = 0.0001" in note and "who" not in note


def test_a_mask_in_the_file_is_used(tmp_path, ingested):
    path, mask = tmp_path / "a.tif", np.full((5, 6), 255, np.uint8)
    mask[1, 2:4] = 0
    with tifffile.TiffWriter(path) as file:
        file.write(PLANES, photometric="minisblack", planarconfig="separate", metadata=None)
        file.write(mask > 0, metadata=None, subfiletype=4)
    cube = ingested(row(), path)
    np.testing.assert_array_equal(cube.valid(), mask > 0)
    assert "the mask in the file is used" in cube.attrs["note"]


def test_a_row_that_gives_scale_and_offset_needs_none_of_the_file(tmp_path, ingested):
    path = as_planes(tmp_path / "a.tif", tags=[metadata(('role="scale" name="s"', "abc"))])
    with pytest.raises(InputError, match="give scale and offset in the row"):
        open_raw(row(scale=2.0), path)
    assert values(ingested(row(scale=2.0, offset=1.0), path))[0, 0, 0] == 201


def test_a_matrix_of_pixels_is_unfolded(tmp_path):
    path = as_pages(tmp_path / "a.tif", [COUNTS.reshape(30, 4)])
    np.testing.assert_array_equal(open_raw(row(axes="hwb", shape=[5, 6]), path).read(), COUNTS)
