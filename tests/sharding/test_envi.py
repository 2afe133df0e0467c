"""What an ENVI header says is used, refused with what to do, or noted; the values are those written down here."""

import gzip

import numpy as np
import pytest

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0, 750.0]
COUNTS = np.arange(100, 100 + 5 * 6 * 4).reshape(5, 6, 4).astype("<u2")
CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13}
ORDER = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}


def row(**more):
    return Row("mine", "envi", "*", more.pop("wavelength", "file"), 0.01, **more)


def write(
    folder, cube=COUNTS, *lines, interleave="bip", name="a", wavelength=NM, without=(), encoding="utf-8", tail=b""
):
    """A scene; `lines` come after the usual keys, those of `without` are left out."""
    keys = {
        "samples": cube.shape[1], "lines": cube.shape[0], "bands": cube.shape[2], "header offset": 0,
        "file type": "ENVI Standard", "data type": CODES[cube.dtype.str[1:]], "interleave": interleave, "byte order": 0,
    }  # fmt: skip
    text = "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in keys.items() if key not in without)
    if wavelength:
        text += f"wavelength = {{{', '.join(map(str, wavelength))}}}\n"
    (folder / f"{name}.hdr").write_bytes((text + "".join(f"{line}\n" for line in lines)).encode(encoding))
    (folder / f"{name}.img").write_bytes(cube.transpose(ORDER[interleave]).tobytes() + tail)
    return folder / f"{name}.hdr"


def values(cube):
    return cube.window().physical().transpose(1, 2, 0)


@pytest.mark.parametrize("interleave", sorted(ORDER))
def test_gains_and_offsets_of_each_band_are_applied(tmp_path, ingested, interleave):
    path = write(
        tmp_path, COUNTS, "data gain values = {0.1, 0.2, 0.3, 0.4}", "data offset values = {1, 2, 3, -4}",
        interleave=interleave,
    )  # fmt: skip
    cube = ingested(row(), path)
    assert cube.attrs["scale"] == [0.1, 0.2, 0.3, 0.4] and cube.stored.dtype == np.uint16
    np.testing.assert_allclose(values(cube)[0, 0], [11.0, 22.2, 33.6, 37.2], rtol=1e-6)
    np.testing.assert_allclose(values(cube), COUNTS * [0.1, 0.2, 0.3, 0.4] + [1, 2, 3, -4], rtol=1e-6)
    some = ingested(row(keep_bands=["1", "3"], wavelength=[550.0, 750.0]), path)
    np.testing.assert_allclose(values(some)[0, 0], [22.2, 37.2], rtol=1e-6)


def test_a_reflectance_scale_factor_divides_and_two_ways_at_once_are_refused(tmp_path, ingested):
    cube = ingested(row(), write(tmp_path, COUNTS, "reflectance scale factor = {1000}"))
    np.testing.assert_allclose(values(cube)[0, 0], [0.1, 0.101, 0.102, 0.103], rtol=1e-6)
    both = write(tmp_path, COUNTS, "reflectance scale factor = 1000", "data gain values = {2, 2, 2, 2}")
    with pytest.raises(InputError, match="both data gain values and a reflectance scale factor; give scale"):
        open_raw(row(), both)
    own = ingested(row(scale=0.5), both)
    assert values(own)[0, 0, 0] == 50 and "scale 0.5 of the row is used, the file says 2" in own.attrs["note"]


WORTHLESS = (
    "reflectance scale factor = 0", "reflectance scale factor = nan", "data gain values = {1, 0, 1, 1}",
    "data gain values = {1, 1}", "data gain values = {1, x, 1, 1}", "data offset values = {0, inf, 0, 0}",
)  # fmt: skip


def test_lists_without_commas_and_with_comments(tmp_path, ingested):
    lines = ("bbl = {1 1", " 0", " 1 }", "reflectance scale factor = 100 ; as told", "data ignore value = 100 ; none")
    cube = ingested(row(), write(tmp_path, COUNTS, *lines))
    assert cube.attrs["bad_band"] == [False, False, True, False] and not cube.valid()[0, 0]
    assert values(cube)[1, 1, 0] == pytest.approx(1.28)


@pytest.mark.parametrize("line", WORTHLESS)
def test_numbers_that_make_no_values_are_refused(tmp_path, line):
    with pytest.raises(InputError, match=r"give (scale|offset)"):
        open_raw(row(), write(tmp_path, COUNTS, line))


def test_bad_bands_are_all_but_those_marked_with_1(tmp_path, ingested):
    cube = ingested(row(), write(tmp_path, COUNTS, "bbl = {1, 0, -1, 1.0}"))
    assert cube.attrs["bad_band"] == [False, True, True, False]
    short = ingested(row(), write(tmp_path, COUNTS, "bbl = {1, 0}"))
    assert not any(short.attrs["bad_band"]) and "bbl is left out: 2 values" in short.attrs["note"]
    with pytest.raises(InputError, match="calls every band bad"):
        ingested(row(), write(tmp_path, COUNTS, "bbl = {0, 0, 0, 0}"))


LENGTHS = {
    "Micrometers": 1e-3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "{nm}": 1, "Nanometers": 1, "": 1, "Unknown": 1,
    "Angstroms": 10,
}  # fmt: skip


@pytest.mark.parametrize(("unit", "factor"), LENGTHS.items())
def test_units_that_are_lengths(tmp_path, unit, factor):
    path = write(tmp_path, COUNTS, f"wavelength units = {unit}", "fwhm = {5, 5, 5, 5}",
                 wavelength=[nm * factor for nm in NM])  # fmt: skip
    raw = open_raw(row(), path)
    np.testing.assert_allclose(raw.wavelength_nm, NM)
    np.testing.assert_allclose(raw.fwhm_nm, [5 / factor] * 4)


@pytest.mark.parametrize("unit", ["Wavenumber", "GHz", "MHz", "Index", "cm-1"])
def test_units_that_are_no_lengths_are_refused_unless_the_row_tells(tmp_path, unit):
    path = write(tmp_path, COUNTS, f"wavelength units = {unit}", "fwhm = {5, 5, 5, 5}")
    with pytest.raises(InputError, match=f"wavelength units of the file are '{unit}'.*give wavelength in nm"):
        open_raw(row(), path)
    raw = open_raw(row(wavelength=NM), path)
    assert raw.fwhm_nm is None and "fwhm is left out" in raw.note
    raw = open_raw(row(wavelength_else=NM), path)
    assert raw.wavelength_nm == tuple(NM) and "wavelengths are the row's: the wavelength units" in raw.note


@pytest.mark.parametrize("line", ["wavelength = {}", "wavelength = {Band 1, Band 2, Band 3, Band 4}"])
def test_lists_that_are_broken_are_not_needed_where_the_row_tells(tmp_path, line):
    path = write(tmp_path, COUNTS, line, "fwhm = { }", "data ignore value = none", wavelength=None)
    raw = open_raw(row(wavelength=NM), path)
    assert raw.wavelength_nm == tuple(NM) and raw.fwhm_nm is None
    np.testing.assert_array_equal(raw.read(), COUNTS)
    assert "'fwhm' is empty" in raw.note and "data ignore value 'none' is no number" in raw.note
    with pytest.raises(InputError, match=r"the file's list 'wavelength' (is empty|holds 'Band 1')"):
        open_raw(row(), path)


@pytest.mark.parametrize(("line", "words"), [
    ("file compression = 1", "is compressed"), ("data type = 6", "complex"),
    ("data type = 99", "data type 99 is not read"),
    ("file type = ENVI Spectral Library", "no ENVI Standard cube"), ("file type = TIFF", "no ENVI Standard cube"),
    ("byte order = 2", "byte order is 2"), ("interleave = tiled", "interleave 'tiled'"),
    ("lines = 5.5", "'lines' is missing or not a whole number, but '5.5'"), ("wavelength = {1, 2", "is not closed"),
])  # fmt: skip
def test_what_is_not_read_is_refused_by_name(tmp_path, line, words):
    key = line.partition(" =")[0]
    with pytest.raises(InputError, match=words):
        open_raw(row(), write(tmp_path, COUNTS, line, without=(key,)))


def test_a_header_of_any_size_takes_no_time(tmp_path):
    many = write(tmp_path, COUNTS, *(f"key {number} = 1" for number in range(5000)))
    with pytest.raises(InputError, match="more than 1000 keys"):
        open_raw(row(), many)
    with pytest.raises(InputError, match="wavelength"):
        open_raw(row(), write(tmp_path, COUNTS, f"wavelength = {{{'1 ' * 1_000_000}}}", wavelength=None))


def test_braces_blanks_and_comments_around_single_numbers(tmp_path):
    lines = [
        "; made by hand",
        "Samples = {6}",
        "LINES = 5 ; as counted",
        "bands = { 4 }",
        "data_type = {12}",
        "",
        "{",
        "x",
    ]
    path = write(tmp_path, COUNTS, *lines, without=("samples", "lines", "bands", "data type"))
    np.testing.assert_array_equal(open_raw(row(), path).read(), COUNTS)


@pytest.mark.parametrize(
    ("encoding", "mark"), [("latin-1", b""), ("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16", b"")]
)
def test_headers_of_any_encoding(tmp_path, encoding, mark):
    path = write(tmp_path, COUNTS, "description = {Größe}", "wavelength units = µm",
                 wavelength=[nm / 1000 for nm in NM], encoding=encoding)  # fmt: skip
    path.write_bytes(mark + path.read_bytes())
    np.testing.assert_allclose(open_raw(row(), path).wavelength_nm, NM)


@pytest.mark.parametrize(("interleave", "outer", "inner"), [("bsq", 4, 5), ("bil", 5, 4), ("bip", 5, 6)])
def test_bytes_around_frames_are_left_out(tmp_path, interleave, outer, inner):
    stored = COUNTS.transpose(ORDER[interleave]).reshape(outer, inner, -1)
    data = b"HEAD"
    for frame in stored:
        data += b"ab" + b"".join(b"xyz" + line.tobytes() + b"w" for line in frame) + b"c"
    lines = ("header offset = 4", "major frame offsets = {2, 1}", "minor frame offsets = {3, 1}")
    path = write(tmp_path, COUNTS, *lines, interleave=interleave, without=("header offset",))
    path.with_suffix(".img").write_bytes(data)
    np.testing.assert_array_equal(open_raw(row(), path).read(), COUNTS)
    np.testing.assert_array_equal(
        open_raw(row(), path).read(slice(1, 3), slice(2, 5), [3, 0]), COUNTS[1:3, 2:5][..., [3, 0]]
    )
    path.with_suffix(".img").write_bytes(data + b"more")
    with pytest.raises(InputError, match="mend the header"):
        open_raw(row(), path)


def test_the_size_of_the_data_file_must_be_that_of_the_header(tmp_path):
    twice = write(tmp_path, COUNTS.astype("<f4"), "data type = 12", without=("data type",))
    with pytest.raises(
        InputError, match=r"has 480 bytes, its header asks for 240: data type 3 \(int32\) or 4 \(float32\)"
    ):
        open_raw(row(), twice)
    with pytest.raises(
        InputError, match="has 290 bytes, its header asks for 240: lines, bands, data type or header offset"
    ):
        open_raw(row(), write(tmp_path, COUNTS, tail=bytes(50)))
    few = open_raw(row(), write(tmp_path, COUNTS, tail=bytes(7)))
    assert few.note == "7 bytes behind the pixels are left out"
    np.testing.assert_array_equal(few.read(), COUNTS)
    path = write(tmp_path)
    path.with_suffix(".img").write_bytes(gzip.compress(COUNTS.tobytes()))
    with pytest.raises(InputError, match="it is gzip, compressed"):
        open_raw(row(), path)


def test_keys_that_may_matter_are_noted_and_misspelt_ones_too(tmp_path):
    lines = [
        "DN_to_refl = 0.0001",
        "bad lines = {3}",
        "operator = Max",
        "data ignor value = 0",
        "map info = {UTM, units=Meters}",
    ]
    note = open_raw(row(), write(tmp_path, COUNTS, *lines)).note
    assert "dn to refl = 0.0001, bad lines = 3" in note and "operator" not in note and "map info" not in note
    assert "header key 'data ignor value' is not read; is 'data ignore value' meant?" in note
    with pytest.raises(InputError, match="the header has no key 'wavelength', but 'wavelenghts'"):
        open_raw(row(), write(tmp_path, COUNTS, "wavelenghts = {450, 550, 650, 750}", wavelength=None))
    with pytest.raises(InputError, match=r"'samples' is missing.*was 'sampels' meant"):
        open_raw(row(), write(tmp_path, COUNTS, "sampels = 6", without=("samples",)))


def test_a_fill_value_that_the_type_cannot_hold_is_noted(tmp_path, ingested):
    cube = ingested(row(), write(tmp_path, COUNTS, "data ignore value = -9999"))
    assert "-9999 of the file does not fit its type uint16" in cube.attrs["note"] and cube.valid().all()
    other = ingested(row(nodata=100.0), write(tmp_path, COUNTS, "data ignore value = 101"))
    assert "nodata 100 of the row is used, the file says 101" in other.attrs["note"]
    assert np.argwhere(~other.valid()).tolist() == [[0, 0]]


def test_the_data_file_may_be_named_and_several_are_refused(tmp_path):
    path = write(tmp_path, name="f01.a.v2")
    data = path.with_suffix(".img").rename(tmp_path / "f01.a.v2")
    np.testing.assert_array_equal(open_raw(row(), data).read(), COUNTS)
    (tmp_path / "b.raw").write_bytes(COUNTS.tobytes())
    with pytest.raises(InputError, match=r"no header beside it \(b.raw.hdr or b.hdr\)"):
        open_raw(row(), tmp_path / "b.raw")
    path = write(tmp_path, name="b")
    with pytest.raises(InputError, match=r"several data files lie beside it \(b.img, b.raw\)"):
        open_raw(row(), path)
    (tmp_path / "b.raw").write_bytes(b"a preview")
    np.testing.assert_array_equal(open_raw(row(), path).read(), COUNTS)


def test_notes_of_gdal_beside_the_data_are_used(tmp_path, ingested):
    path = write(tmp_path)
    notes = '<PAMDataset><PAMRasterBand band="2"><NoDataValue>101</NoDataValue><Scale>0.5</Scale><Offset>3</Offset>'
    (tmp_path / "a.img.aux.xml").write_text(notes + "</PAMRasterBand></PAMDataset>")
    cube = ingested(row(), path)
    np.testing.assert_allclose(values(cube)[1, 1], [128, 129 / 2 + 3, 130, 131])
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0]] and "of a.img.aux.xml used" in cube.attrs["note"]
    assert [source["file"] for source in cube.attrs["sources"]] == ["a.hdr", "a.img.aux.xml", "a.img"]
    (tmp_path / "a.img.aux.xml").write_text('<!DOCTYPE x [<!ENTITY y "z">]>' + notes)
    with pytest.raises(InputError, match="defines entities"):
        open_raw(row(), path)
