"""The house rules that a machine can check, and the README's code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sharding.catalog import Row
from sharding.schema import typed

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hypervision", "sharding", "pseudolabel", "distill", "pretrain", "pipeline")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small_and_say_what_they_are(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400 and ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is long"


def test_the_readme_is_short_and_its_python_runs():
    assert len(README.splitlines()) < 150
    (code,) = blocks("python")
    scope = {}
    exec(code, scope)
    assert [tuple(m.shape) for m in scope["maps"]][-1] == (2, 64, 12, 12)


def test_the_readme_row_is_a_row():
    import yaml

    (text,) = blocks("yaml")
    assert typed(Row, yaml.safe_load(text), "README.md").key == "mycam"


def test_every_file_the_readme_names_is_there():
    for name in re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|md))`", README):
        assert (ROOT / name).is_file(), name


def test_make_without_words_prints_the_targets():
    out = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint"):
        assert f"make {target}" in out


@pytest.mark.parametrize(
    ("package", "absent"), [("hypervision", "numpy zarr ray timm scipy"), ("sharding.readers", "torch ray")]
)
def test_imports_stay_light(package, absent):
    code = f"import sys, {package}; print([m for m in '{absent}'.split() if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert [m for m in ast.literal_eval(out) if m != "numpy"] == []
