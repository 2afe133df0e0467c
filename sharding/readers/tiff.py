"""TIFF and GeoTIFF: bands as pages, planes or samples; mapped where the file is plain, else decoded into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import LARGEST_RATIO, Array, RawCube, as_hwb


def open_tiff(row: Row, path: Path) -> RawCube:
    """Open the first image series of a TIFF; `axes` of the row is the order of its three axes.

    Raises:
        InputError: it is no cube, or packed in a way that needs a codec which is not installed.
    """
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape = tuple(int(side) for side in series.shape)
        if len(shape) != 3 or series.dtype is None or series.dtype.kind not in "iuf":
            raise InputError(f"{path} is a {series.dtype} picture of shape {shape}, not a cube of bands")
        size = float(np.prod(shape, dtype=np.float64)) * series.dtype.itemsize
        if size > LARGEST_RATIO * path.stat().st_size:
            raise InputError(f"{path} claims {size:.0f} bytes of pixels, more than its {path.stat().st_size} can hold")
        start = series.dataoffset
        try:
            if start is not None:
                array: Array = np.memmap(path, series.dtype.newbyteorder(file.byteorder), "r", start, shape)
            else:
                array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise InputError(
                f"{path} is packed with a codec that is not installed; pip install imagecodecs, or save it unpacked"
            ) from error
    return RawCube(as_hwb(array, row.axes), (path,))
