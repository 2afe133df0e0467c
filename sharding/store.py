"""The cube store: one Zarr v3 group per scene, integers with scale and offset, everything needed to use it beside.

    <scene>/cube    (band, height, width), the sensor's integers or uint16 steps of a float cube
    <scene>/scores  in its place for a low-rank cube: (component, height, width) float32 as in the file, with
                    coeff (component, band) and mean (band) in physical units; nothing is lost
    <scene>/valid, <scene>/saturated  (height, width) uint8, only where some pixels are invalid or at full scale
    <scene>/companions/<name>  pictures and label maps as the dataset has them, in their own size
    ../../<dataset>.truth/<scene>.npy  the user's own label map to score against (height, width), with its record
    attributes      wavelength_nm, fwhm_nm, bad_band, scale, offset, units, gsd_m, sensor, source files, licence

physical value = stored * scale + offset, which are one number for all bands or a list of one per band. Float cubes are
rounded to at most half a step, which is declared. Every chunk
ends with its crc32c, which Zarr checks at each read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from sharding.errors import InputError
from sharding.planes import Basis, Planes
from sharding.readers import Array
from sharding.records import read_record, sha256_file

FORMAT = 2


@dataclass(frozen=True)
class Cube:
    """An ingested scene, lazily opened."""

    path: Path
    attrs: dict[str, Any]
    arrays: dict[str, Any]

    @property
    def stored(self) -> Any:
        """The large array: bands, or the scores of a low-rank cube."""
        return self.arrays["scores" if "scores" in self.arrays else "cube"]

    @cached_property
    def basis(self) -> Basis | None:
        """Mean and coefficients of a low-rank cube, read once for all its windows."""
        if "scores" not in self.arrays:
            return None
        return np.asarray(self.arrays["mean"][:]), np.asarray(self.arrays["coeff"][:])

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        _, height, width = self.stored.shape
        return len(self.attrs["wavelength_nm"]), height, width

    @property
    def wavelength_nm(self) -> Array:
        """Band centres in nm."""
        return np.asarray(self.attrs["wavelength_nm"], np.float64)

    @property
    def maximum(self) -> float:
        """The largest value of its good bands, which models of input mode "public" divide by."""
        return float(np.asarray(self.attrs["statistics"]["max"])[self.good_band].max(initial=0.0)) or 1.0

    @property
    def good_band(self) -> Array:
        """Indices of the bands that carry a signal, short wavelengths first: all that look at a cube see it so."""
        good = np.flatnonzero(~np.asarray(self.attrs["bad_band"], bool))
        return good[np.argsort(self.wavelength_nm[good], kind="stable")]

    def window(self, rows: slice = slice(None), cols: slice = slice(None)) -> Planes:
        """All bands of a window as they are stored; `physical` of it gives values."""
        stored = np.asarray(self.stored[:, rows, cols])
        return Planes(stored, self.attrs["scale"], self.attrs["offset"], self.basis)

    def companion(self, name: str, rows: slice = slice(None), cols: slice = slice(None)) -> Array | None:
        """A window of a companion that lies pixel on pixel over the cube, or None."""
        if not self.attrs.get("companions", {}).get(name, {}).get("registered"):
            return None
        return np.asarray(zarr.open_group(self.path, mode="r")[f"companions/{name}"][rows, cols])

    def labels(self) -> Array | None:
        """The label map [H, W] to score against: one given as `truth`, else the first of the dataset; 0 = unknown."""
        own = read_truth(self.path)
        if own is not None:
            return own
        for name, told in self.attrs.get("companions", {}).items():
            if told["kind"] == "labels" and told.get("registered"):
                found = self.companion(name)
                if found is not None and found.ndim == 2 and found.dtype.kind in "iub":
                    return found.astype(np.int64)
        return None

    def valid(self, rows: slice = slice(None), cols: slice = slice(None)) -> Array:
        """Mask of valid pixels of a window."""
        return self._mask("valid", rows, cols, True)

    def saturated(self, rows: slice = slice(None), cols: slice = slice(None)) -> Array:
        """Mask of the pixels of a window of which some band is at the sensor's full scale."""
        return self._mask("saturated", rows, cols, False)

    def _mask(self, name: str, rows: slice, cols: slice, otherwise: bool) -> Array:
        """A window of a mask, which is only stored where some pixels are not as `otherwise`."""
        if name not in self.arrays:
            return np.full(self.shape_CHW[1:], otherwise)[rows, cols]
        return np.asarray(self.arrays[name][rows, cols], bool)


def open_cube(path: Path) -> Cube:
    """Open an ingested scene without reading its pixels.

    Raises:
        InputError: no cube there.
    """
    try:
        group = zarr.open_group(path, mode="r")
        cube = Cube(path, dict(group.attrs), dict(group.arrays()))
        if cube.attrs["format"] != FORMAT:
            raise ValueError(f"a cube of format {cube.attrs['format']}, this version reads {FORMAT}")
        _ = cube.shape_CHW
        return cube
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not an ingested cube ({error}); run ingest again") from error


def truth_files(cube: Path) -> tuple[Path, Path]:
    """Where the truth of a cube and its record lie."""
    folder = cube.parent.with_name(f"{cube.parent.name.removesuffix('.zarr')}.truth")
    return folder / f"{cube.name}.npy", folder / f"{cube.name}.json"


def read_truth(cube: Path) -> Array | None:
    """The truth [H, W] of a cube, or None if it has none.

    Raises:
        InputError: its bytes are not those of its record.
    """
    data, record_path = truth_files(cube)
    if not record_path.is_file():
        return None
    record = read_record(record_path)
    if not record.done:
        return None
    if not data.is_file() or sha256_file(data) != record.sha256:
        raise InputError(f"{data} is not as its record says; delete {record_path} and run ingest again")
    return np.asarray(np.load(data, allow_pickle=False), np.int64)


def truth_hash(cube: Path) -> str:
    """The sha256 of the truth of a cube, empty if it has none: what scores against it depend on."""
    record_path = truth_files(cube)[1]
    return read_record(record_path).sha256 if record_path.is_file() else ""
