"""Which teacher, which views of a tile; light to import, so that no model library is loaded to check it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import ConfigError

Array = NDArray[Any]
MODES = ("fill", "cache", "live", "none")
STORES = ("fp16", "int8")
WITHOUT_VISIBLE = ("skip", "false-colour")


class View(Enum):
    """The views that features exist for; the value is their place in the cache."""

    IDENTITY = 0
    FLIPPED = 1


VIEWS = tuple(View)


def apply_view(array: Array, view: View, axis: int) -> Array:
    """The array as a view shows it; `axis` is its column axis."""
    return np.flip(array, axis) if view is View.FLIPPED else array


@dataclass
class TeacherConfig:
    """timm name, local weights, input side in pixels, and how features are had.

    Modes: fill (compute once while streaming, then read), cache (must exist), live, none. Without a checkpoint,
    `pretrained` takes timm's own weights from its cache; random weights need `allow_random`. `store`: fp16, or int8
    with a scale per view and channel, half the bytes. `project`: channels after a fixed random orthogonal projection
    (0 = all of them), which keeps angles nearly and divides the bytes. `without_visible`: what distillation does with
    cameras that see no visible light, whose picture is three of their bands: skip, or learn from it (false-colour).
    """

    name: str = "vit_base_patch14_dinov2"
    checkpoint: str | None = None
    pretrained: bool = False
    allow_random: bool = False
    image_size: int = 224
    mode: str = "fill"
    store: str = "fp16"
    project: int = 0
    without_visible: str = "skip"

    def check(self) -> None:
        """Refuse a teacher that cannot be, before any work.

        Raises:
            ConfigError: unknown name or mode, or no weights.
        """
        if self.mode not in MODES:
            raise ConfigError(f"teacher.mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.store not in STORES:
            raise ConfigError(f"teacher.store {self.store!r} is not one of {', '.join(STORES)}")
        if self.without_visible not in WITHOUT_VISIBLE:
            told = f"teacher.without_visible {self.without_visible!r} is not one of {', '.join(WITHOUT_VISIBLE)}"
            raise ConfigError(told)
        if self.project < 0:
            raise ConfigError("teacher.project must be 0 (all channels) or the number of channels that are kept")
        if self.mode == "none":
            return
        if self.checkpoint is None and not self.pretrained and not self.allow_random:
            raise ConfigError(
                "the teacher has no weights: set teacher.checkpoint=FILE or teacher.pretrained=true, or "
                "teacher.mode=none to train without (teacher.allow_random=true runs random weights)"
            )
        if self.checkpoint is not None and not Path(self.checkpoint).expanduser().is_file():
            raise ConfigError(f"teacher: no checkpoint at {self.checkpoint}; mend teacher.checkpoint")

    @property
    def notes(self) -> list[str]:
        """What everyone who meets its features must be told."""
        return [f"the teacher {self.name} has RANDOM weights (teacher.allow_random)"] if self.is_random else []

    @property
    def is_random(self) -> bool:
        """Whether this teacher has never learned anything."""
        return self.checkpoint is None and not self.pretrained
