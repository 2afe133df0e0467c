"""SAM2 masks (spatial) + HyperFree masks (spectral) -> fused labels that know shape and material, on Ray."""
