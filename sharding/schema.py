"""Nested dataclasses checked by OmegaConf: a misspelt key is an error that names the nearest right one."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sharding.errors import ConfigError

T = TypeVar("T")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C: ten times faster on wavelength tables


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, or not YAML, or not a mapping.
    """
    try:
        loaded = yaml.load(path.read_text(), Loader=LOADER)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_keys(cls: type, value: Any, where: str, prefix: str = "") -> None:
    """Refuse a key that the dataclass does not have, naming the nearest one it has."""
    if not isinstance(value, dict):
        return
    types = _field_types(cls)
    for key, inner in value.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, 1, 0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"choose one of: {', '.join(types)}"
            raise ConfigError(f"{where}: there is no key {prefix}{key}; {hint}")
        parts = [arg for arg in (types[key], *typing.get_args(types[key])) if dataclasses.is_dataclass(arg)]
        for part in parts:
            rows = inner if isinstance(inner, list) else [inner]
            for index, row in enumerate(rows):
                step = f"{prefix}{key}.{index}." if isinstance(inner, list) else f"{prefix}{key}."
                check_keys(typing.cast(type, part), row, where, step)


def typed(cls: type[T], value: dict[str, Any], where: str) -> T:
    """Turn a plain mapping into the dataclass `cls`, types checked.

    Args:
        cls: a dataclass whose fields may be dataclasses or lists of them.
        value: plain data, as YAML gives it.
        where: file or command that it came from, for the error.

    Raises:
        ConfigError: an unknown key, a wrong type or a missing value.
    """
    check_keys(cls, value, where)
    try:
        # What may be anything has no type to check, and a wavelength table is slow to walk: put back as it is.
        free = {name: value[name] for name, kind in _field_types(cls).items() if kind is Any and name in value}
        typed_part: dict[str, Any] = {**value, **dict.fromkeys(free)}
        config = OmegaConf.merge(OmegaConf.structured(cls), typed_part)
        made = typing.cast(Any, OmegaConf.to_object(config))
        return typing.cast(T, dataclasses.replace(made, **free) if free else made)
    except OmegaConfBaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f"{where}: {getattr(error, 'full_key', '')}: {lines[0]}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
