"""Classical segmenters for use without weights: Felzenszwalb on the RGB picture, k-means on spectra.

They stand in for SAM2 and HyperFree so that the pipeline runs on a bare machine; every record says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from skimage.measure import label as connected
from skimage.segmentation import felzenszwalb
from sklearn.cluster import KMeans

from pseudolabel.regions import relabel

Array = NDArray[Any]


@dataclass
class ClassicalConfig:
    """Felzenszwalb scale, sigma and least region; k-means clusters and the pixels it is fitted on."""

    scale: float = 60.0
    sigma: float = 0.8
    min_size: int = 30
    clusters: int = 12
    fit_pixels: int = 4096


def spatial_regions(rgb_HW3: Array, valid_HW: Array, config: ClassicalConfig) -> Array:
    """Regions of similar colour (Felzenszwalb and Huttenlocher, IJCV 2004); 0 where invalid."""
    found = felzenszwalb(rgb_HW3, scale=config.scale, sigma=config.sigma, min_size=config.min_size)
    return relabel(np.where(valid_HW, found + 1, 0))


def spectral_regions(shape_HWK: Array, valid_HW: Array, config: ClassicalConfig) -> Array:
    """Connected components of k-means clusters of denoised spectra; 0 where invalid."""
    pixels = shape_HWK[valid_HW]
    step = max(1, len(pixels) // config.fit_pixels)
    clusters = min(config.clusters, len(pixels[::step]))
    model = KMeans(clusters, n_init=2, random_state=0, max_iter=50).fit(pixels[::step])
    ids = np.zeros(valid_HW.shape, np.int32)
    ids[valid_HW] = model.predict(pixels) + 1
    smooth = np.where(valid_HW, median_filter(ids, 3), 0)
    return np.asarray(connected(smooth, connectivity=1, background=0), np.int32)
