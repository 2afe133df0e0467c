"""What is told before anything is queued; the queue itself is in tests/slurm."""


def test_a_dry_run_prints_every_script_and_leaves_nothing(cli, tiny, tmp_path):
    work = tmp_path / "w"
    code, out, err = cli("submit", tiny, f"workdir={work}", "--dry-run")
    assert code == 0 and not work.exists(), out + err
    for stage in ("corpus", "ingest", "pseudolabel", "pretrain", "export", "report", "compare"):
        assert f'batch {stage} "$@"' in out and f"#SBATCH --job-name=hv-{stage}-" in out
    assert f"#SBATCH --output={work}/slurm/ingest-%A_%a.log" in out and "#SBATCH --array=0-3" in out


def test_a_missing_dataset_is_told_before_anything_is_queued(cli, tmp_path):
    words = ("dataset=cave", f"root={tmp_path / 'nowhere'}", f"workdir={tmp_path / 'w'}")
    light = ("pseudolabel.segmenters=classical", "teacher.mode=none")
    code, out, err = cli("submit", "one_gpu", *words, *light, "--dry-run")
    assert code == 2 and str(tmp_path / "nowhere") in err, out + err


def test_datasets_are_found_by_their_keys(cli, tmp_path):
    for name in ("cave", "unknown"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    words = (f"raw={tmp_path / 'raw'}", f"workdir={tmp_path / 'w'}")
    code, _, err = cli("ingest", "one_node", *words)
    assert code == 2 and str(tmp_path / "raw" / "cave") in err
    (tmp_path / "raw" / "cave").rmdir()
    code, _, err = cli("ingest", "cluster", *words)
    assert code == 2 and "holds no folder named by a dataset's key (it has unknown)" in err


def test_without_slurm_the_sentence_says_what_to_run(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = cli("submit", tiny, f"workdir={tmp_path}")
    assert code == 2 and "without it: hypervision run RECIPE" in err
