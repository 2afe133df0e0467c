"""Kilobyte fakes of every catalog row, in the publisher's own layout, for tests and for trying a command.

How a file lies on disk is written down here a second time, by hand and without the row: a row that turns, swaps or
cuts a cube wrongly cannot agree with its fake.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from sharding.generator import formats

Cube = NDArray[Any]
SIDE_HW = (6, 9)
Writer = Callable[[Path, Cube, list[float]], None]


def _mat(name: str, **more: Any) -> Writer:
    def write(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
        savemat(path, {name: cube_HWB, "after": np.zeros((33, 2)), **more})

    return write


def _mat73(name: str, vector: str | None = None, turn: Callable[[Cube], Cube] | None = None, **more: Any) -> Writer:
    """MATLAB v7.3: 512 bytes of its own, then HDF5 with the axes reversed."""

    def write(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:
        with h5py.File(path, "w", userblock_size=512) as file:
            stored = cube_HWB if turn is None else turn(cube_HWB)
            file.create_dataset(name, data=stored.transpose(2, 1, 0), compression="gzip")
            file["norm_factor"] = np.array([[1.0]])
            for other, values in more.items():
                file[other] = values.T
            if vector is not None:
                file[vector] = np.array([wl_C]).T
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, generated scene")

    return write


def _npy(order: tuple[int, int, int]) -> Writer:
    return lambda path, cube_HWB, wl_C: np.save(path, cube_HWB.transpose(order))  # noqa: ARG005


def _npz(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
    np.savez_compressed(path, cube=cube_HWB)


def _png_bands(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
    for band, plane in enumerate(cube_HWB.transpose(2, 0, 1), 1):
        Image.fromarray(plane).save(path.with_name(path.name.replace("_01.", f"_{band:02d}.")))


def _tiff(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
    tifffile.imwrite(path, cube_HWB.transpose(2, 0, 1), photometric="minisblack")


def _envi(
    interleave: str, dtype: str, extension: str, axis: bool, turn: Callable[[Cube], Cube] | None = None
) -> Writer:
    def write(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:
        stored = cube_HWB if turn is None else turn(cube_HWB)
        formats.write_envi(path, stored, tuple(wl_C) if axis else None, interleave, dtype, extension)

    return write


def _mosaic(cell: int, empty: int = 0) -> Writer:
    """A snapshot frame; `empty` filter positions at the end of a cell hold nothing."""

    def write(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
        padded = np.pad(cube_HWB, ((0, 0), (0, 0), (0, empty)))
        formats.write_mosaic(path, (padded / 4095).astype(np.float32), cell)

    return write


def _hsd(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:
    formats.write_hsd(path, cube_HWB, tuple(wl_C), rank=54)


def _blood(path: Path, cube_HWB: Cube, wl_C: list[float]) -> None:  # noqa: ARG001
    """SOC-710: 128 bands of which 15 are noise, 520 lines of which one is dead."""
    noise = np.random.default_rng(0).random((520, cube_HWB.shape[1], 128)).astype(np.float32)
    noise[: len(cube_HWB), :, [*range(5, 48), *range(51, 121)]] = cube_HWB
    formats.write_envi(path, noise, None, "bsq", "<f4", ".float")


def _quarter(cube_HWB: Cube) -> Cube:
    return np.rot90(cube_HWB, -1)


def _swap(cube_HWB: Cube) -> Cube:
    return cube_HWB.swapaxes(0, 1)


SAME, BAND_FIRST = (0, 1, 2), (2, 0, 1)
# No turn, mirror or swap of red and blue leaves these as they are: red to the left, blue above; ids that rise.
PICTURE_HW3 = np.zeros((*SIDE_HW, 3), np.uint8)
PICTURE_HW3[:, :3, 0], PICTURE_HW3[0, :, 2] = 255, 200
IDS_HW = np.arange(54, dtype=np.uint8).reshape(SIDE_HW)
MASK_HW = (IDS_HW < 12).astype(np.uint8) * 255
IDS_BLOOD = np.pad(IDS_HW, ((0, 514), (0, 0)))
BOX = np.array([3.0, 1.0, 4.0, 2.0])
MAPS = {"label_Semantic Classes for Urban Scenes": IDS_HW, "label_spectral_reflectances": IDS_HW // 7}
# Where the publisher puts a scene, type of its values, how they are written.
FAKES: dict[str, tuple[str, str, Writer]] = {
    "aphid": ("hyper/001.npy", "f4", _npy(BAND_FIRST)),
    "arad_1k_16": ("mats/ARAD_1K_0001_16.mat", "f4", _mat73("cube")),
    "arad_1k_31": ("mats/ARAD_1K_0001.mat", "f4", _mat73("cube", "bands")),
    "cave_png": ("balloons_ms/balloons_ms_01.png", "u2", _png_bands),
    "cave": ("balloons.mat", "f8", _mat("DataCube")),
    "deephsnir": ("Kiwi/NIR/day_01/kiwi_day_01_01_front.hdr", "f4", _envi("bil", "<f4", ".bin", False)),
    "deephsvis": ("Kiwi/VIS/day_01/kiwi_day_01_01_front.hdr", "f4", _envi("bil", "<f4", ".bin", False)),
    "deephsviscor": ("Kiwi/VIS_COR/day_01/kiwi_day_01_01_back.hdr", "f4", _envi("bsq", "<f4", ".bin", False)),
    "fiftyoutdoor": ("scene1.mat", "f8", _mat("hsi")),
    "harvard": ("img1.mat", "f8", _mat("ref", lbl=np.ones(SIDE_HW))),
    "hotnir": ("training/HSI-NIR/car1/img/0001.png", "u2", _mosaic(5)),
    "hotrednir": ("training/HSI-RedNIR/car1/img/0001.png", "u2", _mosaic(4, 1)),
    "hotvis": ("training/HSI-VIS/car1/img/0001.png", "u2", _mosaic(4)),
    "hs_sod": ("hyperspectral/0001.mat", "u2", _mat73("hypercube")),
    "hsidrive20": ("images/training/nf1112_MF_TC.npy", "f4", _npy(SAME)),
    "hsiroad": ("images/0001_nir.tif", "u1", _tiff),
    "hsodbitv2": ("hyperspectral/0001.h5", "f4", _mat73("dataset")),
    "hykov2nir": ("set-1_0001_spec_annotated.mat", "f8", _mat("data", **MAPS)),
    "hykov2vis": ("set-1_0001_spec_annotated.mat", "f8", _mat("data", **MAPS)),
    "hyperblood": ("data/A_1.hdr", "f4", _blood),
    "hyperdrive": ("HSI_REGISTERED/1.npz", "f2", _npz),
    "hyperdrivevnir": ("HSI_REGISTERED/1.npz", "f2", _npz),
    "hyperdriveswir": ("HSI_REGISTERED/1.npz", "f2", _npz),
    "hyperdrivevnir_raw": ("VNIR_RAW/1.npy", "f8", _npy(SAME)),
    "hyperdriveswir_raw": ("SWIR_RAW/1.npy", "f8", _npy(SAME)),
    "hyperspectralcityv2": ("train/20210409_140341_001.hsd", "f4", _hsd),
    "icvl": ("4cam_0411-1640-1.mat", "f8", _mat73("rad", "bands", _quarter, rgb=PICTURE_HW3)),
    "libhsi": (
        "reflectance_cubes/2022_001.hdr", "f4", _envi("bil", "<f4", ".dat", True, lambda cube: np.rot90(cube, 1))
    ),
    "umemm": ("scene1.mat", "f8", _mat("reflectances")),
    "umld2015": ("scene1/scene1.mat", "f8", _mat("radiances")),
    "umns2002": ("scene1.mat", "f8", _mat("reflectances")),
    "umns2004": ("scene1/ref_scene1.mat", "f8", _mat("reflectances")),
    "umos": ("scene1.mat", "f8", _mat("reflectances")),
    "umri2015": ("scene1_0710.mat", "f8", _mat("radiances")),
    "virginia_tech_tree": ("oak_01.hdr", "u2", _envi("bil", "<u2", ".bil", True, _swap)),
    "vnihdhiatlimafb": ("leaf_01.hdr", "f4", _envi("bil", "<f4", ".dat", True, _swap)),
}  # fmt: skip


_HOT = "groundtruth_rect.txt"
_DRIVE = {
    "rgb": ("RGB_REGISTERED/1.png", PICTURE_HW3), "segmentation": ("SEGMENTATIONS_REGISTERED/1.jpg", PICTURE_HW3),
}  # fmt: skip
# What lies beside that scene: name, where, and what a user must get of it ("" = in the scene's own file).
BESIDE: dict[str, dict[str, tuple[str, Cube]]] = {
    "arad_1k_31": {"rgb": ("rgb/ARAD_1K_0001.jpg", PICTURE_HW3)},
    "aphid": {"labels": ("masks/001.png", IDS_HW)},
    "cave_png": {"rgb": ("balloons_ms/balloons_RGB.bmp", PICTURE_HW3)},
    **{
        f"hot{kind.lower()}": {
            "rgb": (f"training/HSI-{kind}-FalseColor/car1/img/0001.jpg", PICTURE_HW3),
            "box": (f"training/HSI-{kind}/car1/{_HOT}", BOX),
        }
        for kind in ("NIR", "RedNIR", "VIS")
    },
    "hsidrive20": {
        "rgb": ("RGB/nf1112_pseudocolor.png", PICTURE_HW3),
        "labels": ("annotations/training/nf1112_MF_TC.png", IDS_HW),
    },
    "hsiroad": {"rgb": ("images/0001_rgb.tif", PICTURE_HW3), "labels": ("masks/0001_nir.tif", IDS_HW)},
    "hsodbitv2": {"rgb": ("color/0001.jpg", PICTURE_HW3), "saliency": ("GT/0001.jpg", MASK_HW)},
    "hs_sod": {"rgb": ("color/0001.jpg", PICTURE_HW3), "saliency": ("ground-truth/0001.jpg", MASK_HW)},
    "hykov2nir": {"classes": ("", IDS_HW), "materials": ("", IDS_HW // 7)},
    "hykov2vis": {"classes": ("", IDS_HW), "materials": ("", IDS_HW // 7)},
    "hyperblood": {"labels": ("anno/A_1.npz", IDS_BLOOD)},
    "hyperdrive": _DRIVE,
    "hyperdrivevnir": _DRIVE,
    "hyperdriveswir": _DRIVE,
    "hyperspectralcityv2": {"labels": ("gt/rgb20210409_140341_001_gray.png", IDS_HW)},
    "icvl": {"rgb": ("", PICTURE_HW3)},
    "libhsi": {"rgb": ("rgb/2022_001.png", PICTURE_HW3), "labels": ("labels/2022_001.png", IDS_HW)},
}


def write_beside(key: str, root: Path) -> dict[str, Cube]:
    """Write the companions of a fake scene as the publisher has them; name -> what a user must get."""
    wanted = BESIDE.get(key, {})
    for place, values in wanted.values():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is BOX:
            path.write_text("\t".join(f"{value:g}" for value in values) + "\n9\t9\t9\t9\n")
        elif path.suffix == ".npz":
            np.savez_compressed(path, gt=values)
        elif place:
            exact: dict[str, Any] = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
            Image.fromarray(values).save(path, **exact)
    return {name: values for name, (_, values) in wanted.items()}


def write_fake(key: str, root: Path, wavelength_nm: list[float]) -> Cube:
    """Write one scene of a row below `root`; returns the cube (height, width, band) that a user must get.

    Args:
        key: a catalog key.
        root: the dataset's folder.
        wavelength_nm: for the containers that store it; also the number of bands.
    """
    place, dtype, write = FAKES[key]
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    values = rng.integers(1, 250, (*SIDE_HW, len(wavelength_nm)))
    cube = (values if np.dtype(dtype).kind == "u" else values / 256).astype(dtype)
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = cube
    if key in ("hyperdrivevnir", "hyperdriveswir"):  # one archive of 24 + 9 bands
        other = np.full((*SIDE_HW, 33 - cube.shape[2]), 7, cube.dtype)
        stored = np.concatenate([cube, other] if key == "hyperdrivevnir" else [other, cube], 2)
    write(path, stored, wavelength_nm)
    return cube
