"""What differs between clusters: merged into each stage's script, and refused where sbatch would misread it."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline.batch import idle_starts, may_restart
from pipeline.site import TEMPLATES, Site, lead_note, load_site, render, signal_lead, template_options
from pipeline.stages import STAGES
from pipeline.submit import _at_most
from sharding.errors import ConfigError


def write(tmp_path, **fields):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_short_script_of_resources_and_one_call(stage):
    text = (TEMPLATES / f"{stage}.sbatch").read_text()
    rest = [line for line in text.splitlines() if not line.startswith("#")]
    assert rest == ["set -euo pipefail", f'exec ${{HYPERVISION:-hypervision}} batch {stage} "$@"']
    assert len(text.splitlines()) < 20 and signal_lead(text) and "requeue" in template_options(stage)


def test_a_site_changes_adds_and_takes_away(tmp_path):
    path = write(
        tmp_path, command="apptainer exec hv.sif hypervision", setup="module load cuda\nexport A=1\n",
        sbatch={"partition": "cpu", "account": "abc"},
        stages={"pretrain": {"partition": "gpu", "gpus-per-node": None, "gres": "gpu:a100:4", "time": "12:00:00"}},
    )  # fmt: skip
    site = load_site(path)
    script = render("pretrain", site.options("pretrain"), site)
    told = re.findall(r"^#SBATCH --(\S+)", script, re.M)
    assert {"partition=gpu", "account=abc", "gres=gpu:a100:4", "time=12:00:00", "requeue"} <= set(told)
    assert not any(line.startswith("gpus-per-node") for line in told) and len(told) == len(set(told))
    body = [line for line in script.splitlines() if not line.startswith("#")]
    call = 'exec apptainer exec hv.sif hypervision batch pretrain "$@"'
    assert body == ["set -euo pipefail", "module load cuda", "export A=1", call]
    assert "partition=cpu" in render("ingest", site.options("ingest"), site)


def test_the_example_is_a_site():
    load_site(TEMPLATES / "site.example.yaml")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"ray": "both"}, "set node .* or job"),
        ({"sbtach": {}}, "did you mean sbatch"),
        ({"stages": {"pretrian": {}}}, "did you mean pretrain"),
        ({"stages": {"pretrain": "gpu"}}, "must be options of sbatch"),
    ],
)
def test_a_wrong_site_is_one_sentence(tmp_path, fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_site(write(tmp_path, **fields))


def test_a_time_without_quotes_is_refused(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("sbatch: {time: 12:00:00}\n")
    with pytest.raises(ConfigError, match="put quotes around time"):
        load_site(path)


def test_a_missing_site_file_says_so():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_site(Path("nowhere.yaml"))


def test_arrays_have_no_more_elements_than_units():
    assert _at_most("0-7", 3) == "0-2" and _at_most("0-7%4", 3) == "0-2%4" and _at_most("0-7", 20) == "0-7"
    assert _at_most("1,3,5", 1) == "1,3,5"


def test_the_warning_must_leave_time_to_save():
    assert lead_note(600, 100.0) is None and lead_note(600, None) is None
    assert "set signal: B:USR1@1200 for pretrain" in lead_note(600, 400.0)
    assert "not warned" in lead_note(None, None)
    assert signal_lead(render("pretrain", Site().options("pretrain"), Site())) == 600


def test_what_is_queued_again():
    def again(code, warned=False, idle=0):
        return may_restart(code, warned, idle, 3)[0]

    assert again(75, warned=True) and again(75, warned=True, idle=3)
    assert not again(75, warned=True, idle=4), "three restarts and nothing done"
    assert not again(75), "who cancels does not want it back"
    assert again(71, idle=3) and not again(71, idle=4)
    assert not again(2) and not again(0) and not again(1)


def test_starts_without_anything_done_are_counted_in_a_row_and_by_job(tmp_path):
    notes = tmp_path / "ended.jsonl"
    rows = [("7", False), ("7", True), ("7", False), ("8", False), ("7", False)]
    notes.write_text("".join(json.dumps({"job": job, "progress": done}) + "\n" for job, done in rows))
    assert [idle_starts(notes, "7", False), idle_starts(notes, "7", True), idle_starts(notes, "9", False)] == [3, 0, 1]
