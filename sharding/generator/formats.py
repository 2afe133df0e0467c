"""Writers of generated cubes in the true on-disk format of catalog rows. One function per container."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Cube = NDArray[np.float32]
MAT_TEXT_BYTES = 116


def write_mat(path: Path, cube_HWB: Cube) -> None:
    """CAVE-like: MATLAB v5, float64 counts / 65535 under `DataCube`, and a small variable after it."""
    buffer = io.BytesIO()
    counts = np.rint(np.clip(cube_HWB, 0, 1) * 65535) / 65535
    savemat(buffer, {"DataCube": counts, "exposure": np.array([[0.1]])}, do_compression=True)
    # The header text holds the time of writing: replace it, so that equal scenes are equal bytes.
    text = b"MATLAB 5.0 MAT-file, generated scene".ljust(MAT_TEXT_BYTES)
    path.write_bytes(text + buffer.getvalue()[MAT_TEXT_BYTES:])


def write_envi(
    path: Path,
    cube_HWB: Cube,
    wavelength_nm: tuple[float, ...] | None,
    interleave: str = "bil",
    dtype: str = "<f4",
    extension: str = ".dat",
    scale: float = 1.0,
) -> None:
    """ENVI header and binary; `scale` is written as `reflectance scale factor`, wavelengths only if given."""
    order = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave]
    stored = np.rint(cube_HWB * scale) if np.dtype(dtype).kind in "iu" else cube_HWB * scale
    path.with_suffix(extension).write_bytes(stored.transpose(order).astype(dtype).tobytes())
    height, width, bands = cube_HWB.shape
    code = {"f4": 4, "i2": 2, "u2": 12, "f8": 5}[np.dtype(dtype).str[1:]]
    lines = [
        "ENVI", f"samples = {width}", f"lines = {height}", f"bands = {bands}", "header offset = 0",
        "file type = ENVI Standard", f"data type = {code}", f"interleave = {interleave}",
        f"byte order = {int(np.dtype(dtype).str[0] == '>')}",
    ]  # fmt: skip
    if scale != 1.0:
        lines.append(f"reflectance scale factor = {scale:g}")
    if wavelength_nm is not None:
        lines.append("wavelength units = Nanometers")
        lines.append("wavelength = {\n" + ",\n".join(f"{nm:.2f}" for nm in wavelength_nm) + "}")
    path.with_suffix(".hdr").write_text("\n".join(lines) + "\n")


def write_libhsi(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...]) -> None:
    """Specim IQ reflectance as LIB-HSI has it: float32 bil, wavelengths in the header, turned by 90 degrees."""
    write_envi(path, np.rot90(cube_HWB, 1), wavelength_nm)


def write_deephs(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...]) -> None:  # noqa: ARG001
    """DeepHS crop: `.bin`, no wavelengths in the header."""
    write_envi(path, cube_HWB, None, interleave="bsq", dtype="<u2", extension=".bin", scale=10000.0)


def write_mosaic(path: Path, cube_HWB: Cube, cell: int) -> None:
    """One grey 16-bit frame of c x c filter cells, values in shares of 4095 counts."""
    height, width, _ = cube_HWB.shape
    counts = np.clip(np.rint(cube_HWB * 4095), 0, 65535).astype(np.uint16)
    frame = counts.reshape(height, width, cell, cell).transpose(0, 2, 1, 3).reshape(height * cell, width * cell)
    Image.fromarray(frame).save(path)


def write_mosaic4(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...]) -> None:  # noqa: ARG001
    """Snapshot mosaic of 4 x 4 filters as a 16-bit PNG."""
    write_mosaic(path, cube_HWB, 4)


def write_mosaic5(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...]) -> None:  # noqa: ARG001
    """Snapshot mosaic of 5 x 5 filters as a 16-bit PNG."""
    write_mosaic(path, cube_HWB, 5)


def write_cave(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...]) -> None:  # noqa: ARG001
    """The MATLAB writer with the signature of the others."""
    write_mat(path, cube_HWB)


def write_hsd(path: Path, cube_HWB: Cube, wavelength_nm: tuple[float, ...], rank: int = 12) -> None:
    """HyperspectralCity `.hsd`: the leading principal components of the cube, as the publisher stores them."""
    height, width, bands = cube_HWB.shape
    flat = cube_HWB.reshape(-1, bands).astype(np.float64)
    mean = flat.mean(0)
    _, vectors = np.linalg.eigh((flat - mean).T @ (flat - mean))
    coeff = vectors[:, ::-1][:, : min(rank, bands)].T
    # A sign for every component, so that equal scenes are equal bytes on every machine.
    coeff = coeff * np.sign(coeff[np.arange(len(coeff)), np.abs(coeff).argmax(1)])[:, None]
    scores = (flat - mean) @ coeff.T
    step = (wavelength_nm[-1] - wavelength_nm[0]) / max(bands - 1, 1)
    head = np.array([height, width, bands, len(coeff), round(wavelength_nm[0])], "<i4").tobytes()
    head += np.array([step], "<f4").tobytes() + np.array([round(wavelength_nm[-1])], "<i4").tobytes()
    path.write_bytes(head + b"".join(part.astype("<f4").tobytes() for part in (mean, coeff, scores)))


WRITERS: dict[str, Callable[[Path, Cube, tuple[float, ...]], None]] = {
    "cave": write_cave,
    "libhsi": write_libhsi,
    "deephsnir": write_deephs,
    "hotvis": write_mosaic4,
    "hotnir": write_mosaic5,
    "hyperspectralcityv2": write_hsd,
}
