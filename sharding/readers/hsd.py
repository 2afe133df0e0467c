"""HyperspectralCity `.hsd`: PCA scores, loadings and mean behind a seven-word header.

Little-endian: H, W, B, D, start (int32), step (float32), end (int32), mean[B], coeff[D, B], scores[H, W, D].
Only the scores are large; they stay mapped, so a window costs h * w * D values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.raw import RawCube

HEADER_BYTES = 28


def open_hsd(row: Row, path: Path) -> RawCube:  # noqa: ARG001 - same signature for every container
    """Open a `.hsd` scene; its wavelengths come from the file's own header."""
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise InputError(f"{path} is cut short: {size} bytes, the header alone has {HEADER_BYTES}")
    with path.open("rb") as file:
        words = file.read(HEADER_BYTES)
    height, width, bands, rank, start = (int(v) for v in np.frombuffer(words, "<i4", 5))
    step = float(np.frombuffer(words, "<f4", 1, 20)[0])
    end = int(np.frombuffer(words, "<i4", 1, 24)[0])
    if min(height, width, bands, rank) < 1 or rank > bands:
        raise InputError(f"{path}: header says {height} x {width} x {bands} of rank {rank}, which cannot be meant")
    need = HEADER_BYTES + 4 * (bands + rank * bands + height * width * rank)
    if size != need:
        raise InputError(f"{path} is cut short or has a wrong header: {size} bytes, its header asks for {need}")
    values = np.memmap(path, "<f4", "r", HEADER_BYTES)
    mean_B = np.array(values[:bands])
    coeff_DB = np.array(values[bands : bands * (1 + rank)]).reshape(rank, bands)
    scores_HWD = values[bands * (1 + rank) :].reshape(height, width, rank)
    axis_fits = abs(start + (bands - 1) * step - end) <= abs(step) / 2
    axis = tuple(start + index * step for index in range(bands)) if axis_fits else None
    note = "" if axis_fits else f"header axis {start}..{end} step {step:g} does not fit {bands} bands"
    return RawCube(scores_HWD, (path,), wavelength_nm=axis, basis=(mean_B, coeff_DB), note=note)
