"""What differs between clusters: one small site file, put over the options in `slurm/<stage>.sbatch`.

template's #SBATCH lines + site.sbatch + site.stages[stage] + set-up lines -> the script that is submitted
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharding.errors import ConfigError
from sharding.schema import load_yaml, typed

TEMPLATES = Path(__file__).resolve().parents[1] / "slurm"
DEFAULT = TEMPLATES / "site.yaml"
MARK = "#SBATCH --"
Options = dict[str, Any]
"""Option of sbatch -> its value; True for one without a value, None to take it away."""


@dataclass
class Site:
    """One cluster.

    Fields:
        command: how a node calls the program (default: the one that submits); setup: shell lines before it.
        sbatch, stages: options of every stage, and of one.
        ray: "node" = a Ray per array element, "job" = one across the nodes of a job.
        restarts: in a row without anything finished.
    """

    command: str = ""
    setup: str = ""
    sbatch: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    ray: str = "node"
    restarts: int = 3

    def check(self) -> None:
        """Refuse what sbatch would misread.

        Raises:
            ConfigError: with what to change.
        """
        if self.ray not in ("node", "job"):
            raise ConfigError(f"site: ray is {self.ray!r}; set node (one per array element) or job (one for all nodes)")
        for stage in self.stages:
            if not (TEMPLATES / f"{stage}.sbatch").is_file():
                near = difflib.get_close_matches(stage, [path.stem for path in TEMPLATES.glob("*.sbatch")], 1)
                raise ConfigError(f"site: no stage is named {stage!r}" + (f"; did you mean {near[0]}?" if near else ""))
        for options in (self.sbatch, *self.stages.values()):
            if not isinstance(options, dict):
                raise ConfigError(f"site: {options!r} must be options of sbatch, as {{partition: gpu}}")
            if isinstance(options.get("time"), int):  # YAML reads 12:00:00 as a number
                told = f"site: put quotes around time, as '12:00:00' (YAML made {options['time']} of it)"
                raise ConfigError(told)

    def options(self, stage: str) -> Options:
        """The options of a stage, the site's put over those of its template."""
        merged = template_options(stage) | self.sbatch | self.stages.get(stage, {})
        return {key: value for key, value in merged.items() if value is not None and value is not False}

    @property
    def program(self) -> str:
        """The command that nodes call, quoted for a shell."""
        if self.command:
            return self.command
        beside = Path(sys.executable).with_name("hypervision")
        return shlex.quote(str(beside)) if beside.is_file() else f"{shlex.quote(sys.executable)} -m pipeline.cli"


def load_site(path: Path | None) -> Site:
    """The site file that is named, else `slurm/site.yaml`, else what suits any cluster.

    Raises:
        ConfigError: no such file, a misspelt key, an option that would be misread.
    """
    if path is None and not DEFAULT.is_file():
        return Site()
    where = path or DEFAULT
    site = typed(Site, load_yaml(where), str(where))
    site.check()
    return site


def _lines(stage: str) -> list[str]:
    return (TEMPLATES / f"{stage}.sbatch").read_text().splitlines()


def template_options(stage: str) -> Options:
    """The #SBATCH lines of a stage's template."""
    found: Options = {}
    for line in _lines(stage):
        if line.startswith(MARK):
            key, sign, value = line.removeprefix(MARK).partition("=")
            found[key] = value if sign else True
    return found


def render(stage: str, options: Options, site: Site) -> str:
    """The script of a stage as it is submitted: nothing in it depends on the environment of who submits."""
    lines = _lines(stage)
    first = next(index for index, line in enumerate(lines) if line.startswith(MARK))
    head = lines[:first]
    body = [line for line in lines[first:] if not line.startswith(MARK)]
    told = [f"{MARK}{key}" if value is True else f"{MARK}{key}={value}" for key, value in options.items()]
    setup = site.setup.strip().splitlines()
    body = [line.replace("${HYPERVISION:-hypervision}", site.program) for line in body]
    return "\n".join([*head, *told, body[0], *setup, *body[1:]]) + "\n"


def signal_lead(script: str) -> int | None:
    """Seconds before its end at which a job is warned, from its script; None without a warning."""
    found = re.search(rf"^{MARK}signal=\S*@(\d+)", script, re.M)
    return int(found[1]) if found else None


def lead_note(lead: int | None, save_seconds: float | None) -> str | None:
    """What is wrong with the warning before a job's end, or None."""
    if lead is None:
        return "the job is not warned before its time is up (no --signal): what was done since the last save is redone"
    if save_seconds is not None and 2 * save_seconds > lead:
        return (
            f"a job is warned {lead} s before its end, but saving took {save_seconds:.0f} s: "
            f"set signal: B:USR1@{max(60, round(3 * save_seconds))} for pretrain in the site file"
        )
    return None
