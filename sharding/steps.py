"""Floats and wide integers as uint16 steps: which steps, and what is told where they are coarse.

survey -> without the odd outlier -> one step for all bands, or one per band -> rounded, error per band
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sharding.errors import InputError
from sharding.missing import Missing
from sharding.readers import Array, RawCube
from sharding.statistics import Statistics, Survey, strips

STEPS = 65534
FINE = 1e-3  # a step for all bands is fine if its error is at most this share of the spread of each
COARSE = 0.1  # above this share of the spread of the middle half of a band there is a warning
WILD, FEW = 1000, 0.01  # a band that reaches so many times its spread has outliers, if they are few of the pixels


def take(raw: RawCube, survey: Survey) -> Statistics:
    """The statistics of a whole scene."""
    for _, part, strip_BHW in strips(raw):
        survey.add(part, strip_BHW)
    return survey.finish()


def blank(block_BHW: Array, survey: Survey, value_B: Array) -> None:
    """Give bands that do not count a value where they have none."""
    if survey.live_B.all():
        return
    dead = np.flatnonzero(~survey.live_B)
    absent_XHW = Missing(survey.missing.nodata, survey.missing.limits).values(block_BHW[dead])
    if absent_XHW is not None:
        for band, absent in zip(dead.tolist(), absent_XHW, strict=True):
            block_BHW[band][absent] = value_B[band]


def choose_steps(stats: Statistics, integer: bool) -> tuple[Array, Array]:
    """(step, lowest value) of each band: one step for all bands where it is fine enough for each, else one per band.

    Whole numbers that do not reach further than there are steps are kept as they are.
    """
    low, high = float(stats.low_B.min()), float(stats.high_B.max())
    varies = stats.live_B & (stats.high_B > stats.low_B)
    fine = (high - low) / STEPS / 2 <= FINE * stats.spread_B[varies]
    if (integer and high - low <= STEPS) or fine.all():
        low_B, range_B = np.full_like(stats.low_B, low), np.full_like(stats.low_B, high - low)
    else:
        low_B, range_B = stats.low_B, stats.high_B - stats.low_B
    step_B = np.where(range_B > 0, range_B / STEPS, 1.0)
    return np.where(integer & (range_B <= STEPS), 1.0, step_B), low_B


def _wild(stats: Statistics) -> Array:
    """Bands that reach so much further than most of their values that steps cannot hold both."""
    return stats.live_B & (stats.last_B > stats.first_B) & (stats.high_B - stats.low_B > WILD * stats.spread_B)


def without_outliers(raw: RawCube, survey: Survey, stats: Statistics) -> tuple[Survey, Statistics, str]:
    """The scene without the odd pixel that lies far outside of all others and would cost its band all precision.

    That is one value which stands for "none" though nobody says so, or a few pixels of any value. They become invalid,
    which the note tells. What is neither stays, and is warned about later.
    """
    wild = _wild(stats)
    if not wild.any():
        return survey, stats, ""
    band = int(np.argmax(np.where(wild, (stats.high_B - stats.low_B) / np.maximum(stats.spread_B, 1e-300), 0)))
    above = stats.high_B[band] - stats.last_B[band] > stats.first_B[band] - stats.low_B[band]
    worst = float(stats.high_B[band] if above else stats.low_B[band])
    reach_B = np.where(wild, WILD / 10 * stats.spread_B, np.inf)
    bounds_B = np.stack([stats.first_B - reach_B, stats.last_B + reach_B])
    one_value = replace(survey.missing, nodata=(*survey.missing.nodata, worst))
    for missing, most in ((one_value, 1.0), (replace(survey.missing, bounds_B=bounds_B), FEW)):
        try:
            calmer = Survey(raw, missing)
            calm = take(raw, calmer)
        except InputError:  # nothing would be left
            continue
        pixels = int(stats.valid_HW.sum() - calm.valid_HW.sum())
        if pixels <= most * stats.valid_HW.sum() and not _wild(calm).any():
            note = (
                f"{pixels} pixels far outside the range of all others are taken as missing (stored value {worst:g} in "
                f"band {band}, whose other values lie within {calm.low_B[band]:g} to {calm.high_B[band]:g}); "
                f"name such a value with nodata in the row"
            )
            return calmer, calm, note
    return survey, stats, ""


def coarse(stats: Statistics, step_B: Array, error_B: Array) -> str:
    """A warning about bands whose steps are coarse beside their own spread."""
    spread_B = np.where(stats.half_B > 0, stats.half_B, stats.spread_B)
    share_B = np.where(stats.dead_B, 0.0, error_B / np.maximum(spread_B, 1e-300))
    if share_B.max() <= COARSE:
        return ""
    band = int(share_B.argmax())
    return (
        f"the range of {int((share_B > COARSE).sum())} bands costs their precision: band {band} reaches from "
        f"{stats.low_B[band]:g} to {stats.high_B[band]:g} in steps of {step_B[band]:.3g}, but most of its values lie "
        f"within {stats.first_B[band]:g} to {stats.last_B[band]:g}; mark outliers with nodata or a mask"
    )


def quantise(block_BHW: Array, valid: Array, step_B: Array, low_B: Array, out_BHW: Array) -> Array:
    """Fill `out_BHW` with steps, band by band in float64; returns the largest rounding error of each in steps."""
    worst_B, whole = np.zeros(len(block_BHW)), bool(valid.all())
    for band, (plane, out) in enumerate(zip(block_BHW, out_BHW, strict=True)):
        values = plane.astype(np.float64)
        if not whole:
            values[~valid] = low_B[band]
        values -= low_B[band]
        values /= step_B[band]
        stored = np.rint(values)
        values -= stored
        worst_B[band] = max(float(values.max()), -float(values.min()))
        out[...] = stored
    return worst_B
