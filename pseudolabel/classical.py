"""Classical segmenters for use without weights: Felzenszwalb on the RGB picture, k-means on spectra.

They stand in for SAM2 and HyperFree so that the pipeline runs on a bare machine; every record says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, median_filter

from pseudolabel.config import ClassicalConfig
from pseudolabel.regions import relabel

Array = NDArray[Any]


def spatial_regions(rgb_HW3: Array, valid_HW: Array, config: ClassicalConfig) -> Array:
    """Regions of similar colour (Felzenszwalb and Huttenlocher, IJCV 2004); 0 where invalid."""
    from skimage.segmentation import felzenszwalb

    found = felzenszwalb(rgb_HW3, scale=config.scale, sigma=config.sigma, min_size=config.min_size)
    return relabel(np.where(valid_HW, found + 1, 0))


def spectral_regions(shape_HWK: Array, valid_HW: Array, config: ClassicalConfig) -> Array:
    """Connected components of k-means clusters of denoised spectra; 0 where invalid."""
    # These take seconds to import, hence not at the top.
    from skimage.measure import label as connected
    from sklearn.cluster import KMeans

    smooth_HWK = gaussian_filter(shape_HWK, (config.smoothing, config.smoothing, 0))
    pixels = smooth_HWK[valid_HW]
    step = max(1, len(pixels) // config.fit_pixels)
    clusters = min(config.clusters, len(pixels[::step]))
    model = KMeans(clusters, n_init=2, random_state=0, max_iter=50).fit(pixels[::step])
    ids = np.zeros(valid_HW.shape, np.int32)
    ids[valid_HW] = model.predict(pixels) + 1
    ids = np.where(valid_HW, median_filter(ids, 5), 0)
    return np.asarray(connected(ids, connectivity=1, background=0), np.int32)
