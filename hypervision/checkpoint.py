"""Weights in and out by name: `.safetensors` of ours, `.pth` of the public models; nothing passes unseen.

Kernel banks and relative-position tables of another length are resized to nearest neighbours, as the public
loaders do; every tensor that was missing, unexpected or resized is in the report.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from hypervision.model import HyperModel

METADATA_KEY = "hypervision"


@dataclass
class LoadReport:
    """What became of each tensor of a checkpoint and of each parameter of the model."""

    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a log or an error."""

        def some(names: list[str]) -> str:
            return f"{len(names)}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")

        return (
            f"{self.loaded} loaded, missing {some(self.missing)}, "
            f"unexpected {some(self.unexpected)}, resized {some(self.resized)}"
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth` or `.pt` file; never runs code stored in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short, or needs pickled objects to open.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds pickled objects and not only tensors; it is not loaded") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): cut short or not a checkpoint") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def read_options(path: Path) -> dict[str, Any]:
    """Model options stored with a `.safetensors` of ours; empty for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return dict(about.get("options", {}))
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): cut short or not a checkpoint") from error


def _resize(name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
    """Nearest-neighbour resizing of the tensors whose length may differ; None for any other."""
    if "rel_pos_" in name and value.ndim == 2 and value.shape[1] == shape[1]:
        return F.interpolate(value.T[None].float(), size=shape[0], mode="nearest")[0].T
    if "weight_bank_w" in name and value.ndim == 4 and value.shape[:2] == shape[:2]:
        return F.interpolate(value.float(), size=tuple(shape[2:]), mode="nearest")
    return None


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load tensors by name into `model` and report on every one of them.

    Raises:
        ValueError: a tensor of another shape that must not be resized, or an unreadable file.
    """
    state = dict(source) if isinstance(source, Mapping) else read_state(Path(source))
    own = model.state_dict()
    report = LoadReport(
        missing=sorted(set(own) - set(state)),
        unexpected=sorted(set(state) - set(own)),
    )
    for name in sorted(set(own) & set(state)):
        value: Tensor | None = state[name]
        if value is not None and value.shape != own[name].shape:
            value = _resize(name, value, own[name].shape)
            if value is None:
                raise ValueError(
                    f"{name} is {tuple(state[name].shape)} in the checkpoint but {tuple(own[name].shape)} in the "
                    f"model: it was saved from another size; pass that size's name or options"
                )
            report.resized.append(name)
        own[name].copy_(value)
        report.loaded += 1
    return report


def save_weights(model: HyperModel, path: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a `.safetensors` under the public names, with the options that rebuild the model.

    A `.pth` or `.pt` is written as the public code reads it: the names and tensors alone.
    """
    tensors = {key: value.detach().contiguous().cpu() for key, value in (state or model.state_dict()).items()}
    if Path(path).suffix in (".pth", ".pt"):
        torch.save(tensors, path)
        return
    from safetensors.torch import save_file

    about = json.dumps({"name": model.name, "options": asdict(model.size)}, sort_keys=True)
    # One entry: safetensors writes several in random order, and equal weights must be equal bytes.
    save_file(tensors, str(path), metadata={METADATA_KEY: about})
