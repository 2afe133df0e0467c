"""The model library: a channel-adaptive hyperspectral backbone that takes any camera.

    cube_BCHW + wavelength_nm + gsd_m  ->  spectral embedding  ->  blocks  ->  taps, neck
                                                                     neck  ->  semantic embedding, masks

`create_model` builds one by name (see `list_models`), `model.encode` returns its feature maps.
Only torch is needed to import this package; safetensors is imported when such a file is read.
"""

from hypervision.backbone import FeatureInfo
from hypervision.bands import interpolate_bands, is_visible, match_bands
from hypervision.checkpoint import LoadReport, load_weights, save_weights
from hypervision.fixed import card, export_program
from hypervision.model import HyperModel, create_model, list_models

__all__ = [
    "FeatureInfo",
    "HyperModel",
    "LoadReport",
    "card",
    "create_model",
    "export_program",
    "interpolate_bands",
    "is_visible",
    "list_models",
    "load_weights",
    "match_bands",
    "save_weights",
]
