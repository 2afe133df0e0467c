"""The configuration of a recipe: nested dataclasses, YAML recipes, dotted overrides.

recipe (name or file) -> overrides key=value -> resolved Config, written beside every output
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill.views import TeacherConfig
from pipeline.tracking import TrackingConfig
from pretrain.config import ModelConfig, PretrainConfig, RunSpec
from pretrain.launch import default_ranks
from pseudolabel.config import AblationConfig, PseudolabelConfig
from sharding.catalog import keys
from sharding.errors import ConfigError
from sharding.folders import is_litter
from sharding.generator.corpus import CorpusConfig
from sharding.ingest import DatasetConfig
from sharding.schema import load_yaml, typed

RECIPES = Path(__file__).parent / "recipes"
# Short forms for the common case of one dataset.
ALIASES = {"dataset": "datasets.0.name"} | {key: f"datasets.0.{key}" for key in ("root", "row", "limit", "expand")}


@dataclass
class IngestConfig:
    """Ray CPU workers of ingest (0 = one per core)."""

    workers: int = 0


@dataclass
class EvidenceConfig:
    """The probes after training, where generated truth is there: scenes that teach the probe, and label tiles."""

    enabled: bool = False
    probe_train_scenes: int = 10
    label_scenes: int = 6


@dataclass
class Config:
    """One recipe, resolved; `raw` holds datasets in folders named by their keys, for recipes that list none."""

    workdir: str = "work"
    raw: str | None = None
    seed: int = 0
    until: str | None = None
    max_failed_fraction: float = 0.02
    datasets: list[DatasetConfig] = field(default_factory=list)
    corpus: CorpusConfig | None = None
    ingest: IngestConfig = field(default_factory=IngestConfig)
    pseudolabel: PseudolabelConfig = field(default_factory=PseudolabelConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def work(self) -> Path:
        """The work folder, absolute."""
        return Path(self.workdir).expanduser().absolute()

    @property
    def run_folder(self) -> Path:
        """The folder of this recipe's training run."""
        return self.work / "runs" / self.pretrain.run

    @property
    def training_datasets(self) -> list[str]:
        """Names of the datasets that are labelled and trained on."""
        return [dataset.name for dataset in self.datasets if dataset.train]

    def run_spec(self) -> RunSpec:
        """What the rank processes are told."""
        ranks = self.pretrain.ranks or default_ranks()
        names = self.training_datasets
        held_out = [dataset.name for dataset in self.datasets if not dataset.train]
        return RunSpec(str(self.work), names, self.seed, ranks, self.model, self.teacher, self.pretrain, held_out)

    def check(self) -> None:
        """Refuse what some stage would refuse, before the first one starts.

        Raises:
            ConfigError: missing weights, impossible sizes, unknown names.
        """
        self.pseudolabel.check()
        self.teacher.check()
        self.model.check()
        self.pretrain.check(self.pretrain.ranks or default_ranks())

    def yaml(self) -> str:
        """The resolved configuration as text."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def recipe_names() -> list[str]:
    """Recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_path(name: str) -> Path:
    path = RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    near = difflib.get_close_matches(name, recipe_names(), 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"no recipe is named {name!r}; {hint}recipes: {', '.join(recipe_names())}, or a .yaml file")


def _recipe_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a recipe, put over those of the recipe that its `base` names; lists are replaced whole."""
    if path in above:
        raise ConfigError(f"{path.name} is its own base, through {' and '.join(one.name for one in above)}")
    tree = load_yaml(path)
    base = tree.pop("base", None)
    return tree if base is None else _over(_recipe_tree(_recipe_path(str(base)), (*above, path)), tree)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def set_dotted(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Set `a.0.b` in nested dicts and lists; a list grows by one at its end.

    Raises:
        ConfigError: an index beyond the end, or a path through a value.
    """
    node: Any = tree
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        last = index + 1 == len(parts)
        follows_list = not last and parts[index + 1].isdigit()
        if isinstance(node, list):
            if not part.isdigit() or int(part) > len(node):
                raise ConfigError(f"{where}: {'.'.join(parts[:index])} has {len(node)} entries, no entry {part}")
            if int(part) == len(node):
                node.append({})
            key: Any = int(part)
        elif isinstance(node, dict):
            key = part
        else:
            raise ConfigError(f"{where}: {'.'.join(parts[:index])} holds a value, it has no key {part}")
        if last:
            node[key] = value
        else:
            if isinstance(node, dict) and not isinstance(node.get(key), (dict, list)):
                node[key] = [] if follows_list else {}
            node = node[key]


def found_datasets(raw: Path) -> list[DatasetConfig]:
    """Every folder below `raw` that has the name of a catalog row.

    Raises:
        ConfigError: no such folder, or none of them has.
    """
    if not raw.is_dir():
        raise ConfigError(f"raw={raw} is not a folder")
    names = sorted(path.name for path in raw.iterdir() if path.is_dir() and not is_litter(path.name))
    found = [DatasetConfig(name, str(raw / name)) for name in names if name in keys()]
    if not found:
        raise ConfigError(
            f"raw={raw} holds no folder named by a dataset's key (it has {', '.join(names[:5]) or 'none'}); "
            "hypervision datasets lists them"
        )
    return found


def load_config(recipe: str, overrides: Sequence[str], need_datasets: bool = True) -> Config:
    """A recipe with overrides put over it, checked.

    Raises:
        ConfigError: an unknown recipe, a misspelt key, a wrong type.
    """
    path = _recipe_path(recipe)
    tree = _recipe_tree(path)
    where = path.name
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f"{override!r} is not key=value")
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            raise ConfigError(f"{override!r}: the value is not readable YAML") from error
        if key not in ALIASES and key.split(".")[0] not in Config.__dataclass_fields__:
            near = difflib.get_close_matches(key.split(".")[0], [*ALIASES, *Config.__dataclass_fields__], 1, 0.5)
            raise ConfigError(f"{override!r}: there is no key {key}" + (f"; did you mean {near[0]}?" if near else ""))
        set_dotted(tree, ALIASES.get(key, key), value, override)
        where = f"{path.name} with {' '.join(overrides)}"
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    config = typed(Config, {str(key): value for key, value in plain.items()}, where)
    config.tracking.check()  # before anything of it is written down
    config.workdir = str(config.work)
    if config.raw is not None and not config.datasets:
        config.datasets = found_datasets(Path(config.raw).expanduser().absolute())
    if need_datasets and not config.datasets:
        raise ConfigError(
            "no dataset is given: add dataset=KEY root=DIR (or datasets.0.name=..., datasets.0.root=...), "
            "or raw=DIR with datasets in folders named by their keys"
        )
    names = [dataset.name for dataset in config.datasets]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"dataset {min(twice)!r} is given twice; give the second another name and row={min(twice)}")
    return config
