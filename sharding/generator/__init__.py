"""Generated scenes for the demo and the tests: seeded, physically sensible, with pixel-exact truth.

    materials (smooth reflectance spectra) -> scene (instances, abundances, light) -> sensor response + noise
        -> the true on-disk format of a catalog row, and its truth as two PNGs

Simplifications are said where they are made; nothing here stands in for real data in a result.
"""
