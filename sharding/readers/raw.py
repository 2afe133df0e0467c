"""One scene as it lies on disk: a lazy view of its pixels and what its file says of them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import HyperVisionError, InputError
from sharding.planes import as_planes, expand_scores
from sharding.readers.lazy import LazyCube

Array = NDArray[Any]
LARGEST_RATIO = 1100  # deflate cannot do better: who claims more values than this lies about its size
LACKING = (EOFError, zlib.error, struct.error, zipfile.BadZipFile)
LACKING_WORDS = ("truncated", "eof", "unexpected end", "cut short", "crc", "inflate", "too small", "larger than file",
                 "greater than file", "size of the", "filter returned failure", "checksum")  # fmt: skip
MAGIC = {
    b"\x89HDF": "HDF5 (container: hdf5, or mat for MATLAB v7.3)", b"MATLAB": "MATLAB (container: mat)",
    b"II*\0": "a TIFF (container: tiff)", b"MM\0*": "a TIFF (container: tiff)", b"II+\0": "a TIFF (container: tiff)",
    b"\x89PNG": "a PNG (container: mosaic-png or png-bands)", b"PK\3\4": "a zip file (an .npz is: container: npz)",
    b"\x93NUMPY": "a .npy (container: npy)", b"ENVI": "an ENVI header (container: envi)", b"\x1f\x8b": "gzip",
    b"CDF": "a classic netCDF file; save it as netCDF-4 (nccopy -k nc4 IN OUT)", b"\x80": "a Python pickle, never read",
    b"\x0e\x03\x13\x01": "an HDF4 file; convert it to HDF5 (h4toh5)", b"<": "a page of text, no data",
}  # fmt: skip
TURNS: dict[str, Callable[[Array], Array]] = {
    "rot90cw": lambda a: np.rot90(a, -1),
    "rot90ccw": lambda a: np.rot90(a, 1),
    "transpose": lambda a: np.swapaxes(a, 0, 1),
    "fliplr": np.fliplr,
    "flipud": np.flipud,
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
        cut = isinstance(error, LACKING) or any(word in reason.lower() for word in LACKING_WORDS)
        advice = "it is cut short or damaged, get the file again" if cut else looks_like(path)
        raise InputError(f"{path} is not a readable {what} ({reason}); {advice}") from error


def looks_like(path: Path) -> str:
    """What to do about a file that is not what its row says, by how it begins."""
    with path.open("rb") as file:
        start = file.read(8)
    known = next((words for magic, words in MAGIC.items() if start.startswith(magic)), "")
    return f"it looks like {known}" if known else "check container and files of its row"


@dataclass(frozen=True)
class RawCube:
    """One scene as it lies on disk.

    Fields:
        base_HWX: lazily mapped view or `LazyCube`; X is the band axis, or the component axis if `basis` is given.
        wavelength_nm, fwhm_nm: one per band, if the file tells.
        basis: (mean_B, coeff_DB) of a low-rank cube.
        valid_HW: mask of valid pixels stored beside the cube, if any.
        scale, offset: what the file says, one number or one per band of the cube.
        nodata, limits: stored values that mean "none", and the lowest and highest that are values.
        bad: bands that the file calls bad.
        sources: every file that the cube was read from.
        note: what the reader had to assume, and what the file says that it did not use.
        variable: name of the array that was taken, in a container of several.
        untold: why the file's own wavelengths or widths cannot be used, if it has some.
        exposure: in milliseconds, if the file tells.
        referenced: whether white and dark references are applied; values are then no longer those of the file.
        kept: bands of the file that make the cube, if not all of them.
    """

    base_HWX: Any
    sources: tuple[Path, ...]
    wavelength_nm: tuple[float, ...] | None = None
    fwhm_nm: tuple[float, ...] | None = None
    basis: tuple[Array, Array] | None = None
    valid_HW: Array | None = None
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None
    nodata: float | tuple[float, ...] | None = None
    limits: tuple[float, float] | None = None
    bad: tuple[bool, ...] | None = None
    note: str = ""
    variable: str | None = None
    untold: str = ""
    exposure: float | None = None
    referenced: bool = False
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


def as_hwb(array: Array, axes: str) -> Array:
    """A view as (height, width, band) of an array whose axes on disk are named by `axes`."""
    return np.transpose(array, [axes.index(letter) for letter in "hwb"])


def turn_plane(array_HW: Any, ops: list[str]) -> Any:
    """The image plane of an array [H, W, ...] turned by names of `catalog.SPATIAL_OPS`, in order."""
    if isinstance(array_HW, LazyCube):
        for op in ops:
            array_HW = array_HW.turned(op)
        return array_HW
    for op in ops:
        array_HW = TURNS[op](array_HW)
    return array_HW
