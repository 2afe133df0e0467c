"""Wavelengths as files give them, in nanometres: by their unit, which is never guessed from what is no length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TO_NM = {
    "nanometers": 1.0, "nanometer": 1.0, "nanometres": 1.0, "nanometre": 1.0, "nm": 1.0,
    "micrometers": 1e3, "micrometer": 1e3, "micrometres": 1e3, "micrometre": 1e3, "microns": 1e3, "micron": 1e3,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "millimeters": 1e6, "millimetres": 1e6, "mm": 1e6, "meters": 1e9, "metres": 1e9,
    "m": 1e9, "angstroms": 0.1, "angstrom": 0.1, "Å": 0.1, "å": 0.1,
}  # fmt: skip
UNKNOWN = ("", "unknown", "none", "n/a", "na", "undefined", "-", "1")


def unit_factor(unit: str) -> float | None:
    """What makes nanometres of a unit; None if it does not say one.

    Raises:
        ValueError: it is a unit, and no length: with what to do.
    """
    word = unit.strip().strip("{}[]()\"'").strip().lower()
    if word in UNKNOWN:
        return None
    for part in (word, *word.replace("(", " ").replace(")", " ").replace(",", " ").split()):
        if part.rstrip(".") in TO_NM:
            return TO_NM[part.rstrip(".")]
    raise ValueError(
        f"the wavelength units of the file are {unit.strip()!r}, which is not a length that is read "
        f"(nanometers, micrometers); give wavelength in nm"
    )


def band_numbers(values: Sequence[object], what: str) -> tuple[float, ...]:
    """A list of numbers, one per band.

    Raises:
        ValueError: it is empty, or holds something else.
    """
    words = [str(value).strip() for value in values]
    while words and not words[-1]:
        words.pop()
    if not words:
        raise ValueError(f"the file's list {what!r} is empty")
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        wrong = next(word for word in words if not _is_number(word))
        raise ValueError(f"the file's list {what!r} holds {wrong[:40]!r}, not numbers") from error


def in_nm(values: Sequence[float], factor: float | None) -> tuple[float, ...]:
    """Values times what makes nanometres of them (None = they are)."""
    return tuple((np.asarray(values, np.float64) * (1.0 if factor is None else factor)).tolist())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
