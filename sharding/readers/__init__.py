"""Readers, one per container and none per dataset. They need neither torch nor ray.

    open_raw(row, path)  ->  RawCube: header (shape, dtype, wavelengths) at once, pixels when asked

A cube is a lazily mapped view (height, width, X); for low-rank containers X is the number of components and
the bands are expanded on reading, so turns of the image plane are views too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.catalog import Row, check_wavelengths, expand_bands, expand_wavelength
from sharding.errors import HyperVisionError, InputError
from sharding.planes import as_planes, expand_scores
from sharding.readers.lazy import LazyCube

Array = NDArray[Any]
MAX_VALUES = 1 << 40
LARGEST_RATIO = 1100  # deflate cannot do better: who claims more values than this lies about its size
OPENERS = {
    "mat": ("mat", "open_mat"),
    "hdf5": ("hdf5", "open_hdf5"),
    "envi": ("envi", "open_envi"),
    "npy": ("numpy_files", "open_npy"),
    "npz": ("numpy_files", "open_npz"),
    "tiff": ("tiff", "open_tiff"),
    "mosaic-png": ("mosaic", "open_mosaic"),
    "png-bands": ("png_bands", "open_png_bands"),
    "hsd": ("hsd", "open_hsd"),
}


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn anything that goes wrong while opening or reading `path` into an `InputError`."""
    try:
        yield
    except HyperVisionError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: no permission") from error
    except MemoryError as error:
        raise InputError(f"{path}: {what} asks for more memory than there is") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not a readable {what}, or cut short ({reason}); get the file again") from error


@dataclass(frozen=True)
class RawCube:
    """One scene as it lies on disk.

    Fields:
        base_HWX: lazily mapped view or `LazyCube`; X is the band axis, or the component axis if `basis` is given.
        wavelength_nm, fwhm_nm: one per band, if the file tells.
        basis: (mean_B, coeff_DB) of a low-rank cube.
        valid_HW: mask of valid pixels stored beside the cube, if any.
        scale, nodata: what the file says, if it says so.
        sources: every file that the cube was read from.
        note: what the reader had to assume.
        kept: bands of the file that make the cube, if not all of them.
    """

    base_HWX: Any
    sources: tuple[Path, ...]
    wavelength_nm: tuple[float, ...] | None = None
    fwhm_nm: tuple[float, ...] | None = None
    basis: tuple[Array, Array] | None = None
    valid_HW: Array | None = None
    scale: float | None = None
    nodata: float | None = None
    note: str = ""
    kept: tuple[int, ...] | None = None

    @property
    def shape_HWB(self) -> tuple[int, int, int]:
        """Height, width, bands."""
        height, width, last = self.base_HWX.shape
        bands = last if self.basis is None else len(self.basis[0])
        return height, width, bands if self.kept is None else len(self.kept)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that `read` returns."""
        stored: np.dtype[Any] = self.base_HWX.dtype
        return stored.newbyteorder("=") if self.basis is None else np.dtype(np.float32)

    def read(self, rows: slice = slice(None), cols: slice = slice(None), bands: Any = slice(None)) -> Array:
        """Pixels of a window and a subset of bands as (h, w, b); see `planes`."""
        return self.planes(rows, cols, bands).transpose(1, 2, 0)

    def planes(self, rows: slice = slice(None), cols: slice = slice(None), bands: Any = slice(None)) -> Array:
        """Pixels of a window and a subset of bands, (b, h, w), without touching the rest.

        Raises:
            InputError: the file is damaged where it was not looked at before.
        """
        if self.basis is not None:
            return expand_scores(self.scores(rows, cols), self.basis, self._of_file(bands))
        with self._reading():
            return as_planes(self.view(rows, cols, bands))

    def view(self, rows: slice = slice(None), cols: slice = slice(None), bands: Any = slice(None)) -> Array:
        """The same before it is copied, (h, w, b): mapped, or read already if the container is read in chunks."""
        with self._reading():
            bands = self._of_file(bands)
            if isinstance(self.base_HWX, LazyCube):
                return self.base_HWX.read(rows, cols, bands)
            window: Array = self.base_HWX[rows, cols][..., bands]
            return window

    def scores(self, rows: slice = slice(None), cols: slice = slice(None)) -> Array:
        """Scores of a low-rank cube in a window, float32 (d, h, w)."""
        with self._reading():
            return as_planes(self.base_HWX[rows, cols])

    def advise(self, how: int) -> None:
        """Tell the system how mapped pixels are used: `mmap.MADV_SEQUENTIAL`, `mmap.MADV_DONTNEED`."""
        mapped = getattr(self.base_HWX, "_mmap", None)
        if mapped is not None:
            mapped.madvise(how)

    def _of_file(self, bands: Any) -> Any:
        """Numbers of the file for bands of the cube."""
        return bands if self.kept is None else np.array(self.kept)[bands]

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.sources[-1] if self.sources else Path("a cube in memory"), "scene")


def _reader(container: str) -> Callable[[Row, Path], RawCube]:
    name, function = OPENERS[container]
    module = import_module(f"sharding.readers.{name}")  # at need: each brings its own library
    return getattr(module, function)  # type: ignore[no-any-return]


def as_hwb(array: Array, axes: str) -> Array:
    """A view as (height, width, band) of an array whose axes on disk are named by `axes`."""
    return np.transpose(array, [axes.index(letter) for letter in "hwb"])


def choose_cube(row: Row, path: Path, arrays: dict[str, tuple[int, ...]]) -> str:
    """Name of the array that is the cube: the one that the row names, or the largest of three axes.

    Raises:
        InputError: there is none; it lists what there is.
    """
    cubes = {name: shape for name, shape in arrays.items() if len(shape) == 3}
    if row.variable is not None:
        if row.variable not in cubes:
            found = ", ".join(f"{name} {shape}" for name, shape in arrays.items()) or "nothing"
            raise InputError(f"{path} has no 3-D array {row.variable!r} (it holds {found}); mend variable in its row")
        return row.variable
    if not cubes:
        raise InputError(f"{path} holds no 3-D numeric array; name one with variable in row {row.key}")
    return max(cubes, key=lambda name: float(np.prod(cubes[name], dtype=np.float64)))


def vector_names(row: Row) -> list[str]:
    """Names of the wavelength vector to look for in the cube's own file, first hit wins."""
    if not isinstance(row.wavelength, dict) or "variable" not in row.wavelength:
        return []
    name = row.wavelength["variable"]
    return [name] if isinstance(name, str) else list(name)


def turn_plane(array_HW: Any, ops: list[str]) -> Any:
    """The image plane of an array [H, W, ...] turned by names of `catalog.SPATIAL_OPS`, in order."""
    if isinstance(array_HW, LazyCube):
        for op in ops:
            array_HW = array_HW.turned(op)
        return array_HW
    turns: dict[str, Callable[[Array], Array]] = {
        "rot90cw": lambda a: np.rot90(a, -1),
        "rot90ccw": lambda a: np.rot90(a, 1),
        "transpose": lambda a: np.swapaxes(a, 0, 1),
        "fliplr": np.fliplr,
        "flipud": np.flipud,
    }
    for op in ops:
        array_HW = turns[op](array_HW)
    return array_HW


def open_raw(row: Row, path: Path) -> RawCube:
    """Open one scene of a dataset; its wavelengths are checked, its image plane is turned as the row says.

    Raises:
        InputError: the file is missing, cut short, or does not fit its row.
    """
    with reading(path, f"{row.container} scene"):
        raw = _reader(row.container)(row, path)
        raw = replace(raw, kept=_kept(row, path, raw.shape_HWB[2]))
        height, width, bands = raw.shape_HWB
        if min(raw.base_HWX.shape) < 1 or height * width * bands > MAX_VALUES:
            raise InputError(f"{path}: a cube of {height} x {width} x {bands} cannot be meant; check the header")
        raw = replace(raw, valid_HW=_valid(row, path, raw))
        try:
            wavelength_nm, source = _wavelengths(row, raw)
            wavelength_nm = check_wavelengths(list(wavelength_nm), bands, source)
            fwhm_nm = _fwhm(row, raw, bands)
        except ValueError as error:
            raise InputError(f"{path}: {error}; mend wavelength or fwhm_nm in row {row.key}") from error
        if row.bands is not None and bands != row.bands:
            raise InputError(
                f"{path} has {bands} bands, row {row.key} says {row.bands}; mend bands, or the row is wrong"
            )
        valid = None if raw.valid_HW is None else turn_plane(raw.valid_HW, row.spatial_ops)
        base = turn_plane(raw.base_HWX, row.spatial_ops)
    return replace(raw, base_HWX=base, valid_HW=valid, wavelength_nm=wavelength_nm, fwhm_nm=fwhm_nm)


def _valid(row: Row, path: Path, raw: RawCube) -> Array | None:
    """The valid mask on disk, less the lines that the row knows to be without signal."""
    if not row.invalid_rows:
        return raw.valid_HW
    height, width, _ = raw.shape_HWB
    if not 0 <= min(row.invalid_rows) <= max(row.invalid_rows) < height:
        raise InputError(f"{path} has {height} lines, invalid_rows of row {row.key} names others; mend it")
    valid = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.copy()
    valid[row.invalid_rows] = False
    return valid


def _kept(row: Row, path: Path, bands: int) -> tuple[int, ...] | None:
    """Bands that the row keeps of a file of `bands` bands."""
    if row.keep_bands is None:
        return None
    kept = expand_bands(row.keep_bands)
    if max(kept) >= bands:
        raise InputError(f"{path} has {bands} bands, row {row.key} keeps band {max(kept)}; mend keep_bands")
    return kept


def _wavelengths(row: Row, raw: RawCube) -> tuple[tuple[float, ...], str]:
    bands = raw.shape_HWB[2]
    spec = row.wavelength
    if spec == "file" or (isinstance(spec, dict) and "variable" in spec):
        axis = raw.wavelength_nm
        if axis is not None:
            if raw.kept is not None and len(axis) > max(raw.kept) and len(axis) != bands:
                axis = tuple(axis[band] for band in raw.kept)
            return axis, "the file"
        if row.wavelength_else is None:
            raise ValueError("the file does not tell its wavelengths, give them in the row")
        spec = row.wavelength_else
    if not isinstance(spec, (list, dict)):
        raise ValueError(f"wavelength {spec!r} is not understood")
    return tuple(expand_wavelength(spec, bands)), "the row"


def _fwhm(row: Row, raw: RawCube, bands: int) -> tuple[float, ...] | None:
    if row.fwhm_nm is None or row.fwhm_nm == "file":
        return raw.fwhm_nm
    widths = [float(row.fwhm_nm)] * bands if isinstance(row.fwhm_nm, (int, float)) else list(map(float, row.fwhm_nm))
    if len(widths) != bands:
        raise ValueError(f"fwhm_nm has {len(widths)} values but the cube has {bands} bands")
    return tuple(widths)
