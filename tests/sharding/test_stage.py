"""Running again is resume; changed configuration or input refuses and names what changed."""

import pytest

from sharding.errors import ChangedError, StageFailed
from sharding.records import Body, Failure, Unit, commit, commit_failure
from sharding.stage import RunOptions, describe_change, run_units


def units(folder, names, config=None, inputs="in"):
    fields = config or {"codec": {"level": 5}}
    return [Unit("s", n, folder / f"{n}.bin", folder / f"{n}.json", inputs, fields) for n in names]


def run(folder, rows, options=None, broken=()):
    made = []

    def make(todo):
        for unit in todo:
            made.append(unit.id)
            if unit.id in broken:
                yield commit_failure(unit, Failure(unit.id, "cannot be read"))
            else:
                yield commit(unit, lambda path, unit=unit: (path.write_text(unit.id), Body())[1])

    return run_units("s", rows, folder, options or RunOptions(), make), made


def test_second_run_does_nothing_and_missing_data_is_redone(tmp_path):
    rows = units(tmp_path, "abc")
    assert run(tmp_path, rows)[1] == ["a", "b", "c"]
    assert run(tmp_path, rows)[1] == []
    (tmp_path / "b.bin").unlink()
    assert run(tmp_path, rows)[1] == ["b"]


def test_changed_configuration_refuses_and_names_the_field(tmp_path):
    run(tmp_path, units(tmp_path, "a"))
    changed = units(tmp_path, "a", {"codec": {"level": 3}})
    with pytest.raises(ChangedError, match=r"codec\.level: 5 -> 3.*--overwrite"):
        run(tmp_path, changed)
    assert run(tmp_path, changed, RunOptions(overwrite=True))[1] == ["a"]


def test_changed_or_vanished_input_refuses(tmp_path):
    run(tmp_path, units(tmp_path, "ab"))
    with pytest.raises(ChangedError, match="the input of a changed"):
        run(tmp_path, units(tmp_path, "ab", inputs="other"))
    with pytest.raises(ChangedError, match=r"b\.json is there but its input is not any more"):
        run(tmp_path, units(tmp_path, "a"))
    assert run(tmp_path, units(tmp_path, "a"), RunOptions(overwrite=True))[1] == []
    assert not (tmp_path / "b.bin").exists()


def test_failures_are_kept_counted_and_retried_only_when_asked(tmp_path):
    rows = units(tmp_path, "abcd")
    allow = RunOptions(max_failed_fraction=0.5)
    result, made = run(tmp_path, rows, allow, broken="b")
    assert made == list("abcd") and [f.item for f in result.failures] == ["b"]
    assert run(tmp_path, rows, allow)[1] == []
    with pytest.raises(StageFailed, match=r"1 of 4 units failed .*b: cannot be read.*--retry-failed"):
        run(tmp_path, rows)
    assert run(tmp_path, rows, RunOptions(retry_failed=True))[1] == ["b"]
    assert run(tmp_path, rows)[0].failures == []


def test_failed_parts_of_a_unit_count_and_are_retried(tmp_path):
    rows, broken = units(tmp_path, "a"), [True]

    def make(todo):
        for unit in todo:
            failures = [Failure("scene", "cannot be labelled")] if broken else []
            body = Body({"scenes": 3}, failures)
            yield commit(unit, lambda path, body=body: (path.write_text("x"), body)[1])

    with pytest.raises(StageFailed, match=r"0\.25 of 1 units failed"):
        run_units("s", rows, tmp_path, RunOptions(), make)
    broken.clear()
    assert run_units("s", rows, tmp_path, RunOptions(retry_failed=True), make).failures == []


def test_describe_change_names_added_and_removed_fields():
    assert describe_change({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "d": 4}) == [
        "a: 1 -> None",
        "b.c: 2 -> 3",
        "d: None -> 4",
    ]


def test_the_limit_is_told_by_its_name_with_a_value_that_would_do(tmp_path):
    with pytest.raises(StageFailed, match=r"\(limit 0\.02, max_failed_fraction\).* more: max_failed_fraction=0\.34"):
        run(tmp_path, units(tmp_path, "abc"), broken="b")
    assert run(tmp_path, units(tmp_path, "abc"), RunOptions(max_failed_fraction=0.34))[1] == []


def test_scenes_that_are_known_to_be_bad_do_not_count_and_others_do(tmp_path):
    def make(todo):
        for unit in todo:
            bad = unit.id in ("cam/b", "cam/c", "other/a")
            failure = Failure(unit.id, "cannot be read")
            yield commit_failure(unit, failure) if bad else commit(unit, lambda path: (path.write_text("x"), Body())[1])

    names = ["cam/a", "cam/b", "other/a"]
    rows = [Unit("s", n, tmp_path / n[-1] / n[:3], tmp_path / f"{n[:3]}-{n[-1]}.json", "in", {}) for n in names]
    with pytest.raises(StageFailed, match="2 of 3 units failed"):
        run_units("s", rows, tmp_path, RunOptions(), make)
    with pytest.raises(StageFailed, match="1 of 3 units failed"):
        run_units("s", rows, tmp_path, RunOptions(), make, known_bad={"cam": 1})
    result = run_units("s", rows, tmp_path, RunOptions(), make, known_bad={"cam": 1, "other": 4})
    assert len(result.failures) == 2
    more = [*rows, Unit("s", "cam/c", tmp_path / "c", tmp_path / "cam-c.json", "in", {})]
    with pytest.raises(StageFailed, match="1 of 4 units failed"):
        run_units("s", more, tmp_path, RunOptions(), make, known_bad={"cam": 1, "other": 4})
