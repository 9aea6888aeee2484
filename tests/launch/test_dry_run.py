"""What a dry run says of the shards that it would do."""

from support.launches import Recorder, files, make_config

from recap_fast.launch.dry_run import dry_run


def said(config):
    recorder = Recorder()
    dry_run(config, recorder)
    return recorder.said


def test_inputs_that_are_not_there_are_named_and_counted(tiny_engine, small_inputs, tmp_path):
    config = make_config(tiny_engine, small_inputs, shards=(f"{small_inputs}/{{00000..00003}}.tar",))
    *shards, (_, end) = said(config)
    out = tmp_path / "out" / "data"
    assert [text for name, text in shards if name == "plan"] == [
        f"{small_inputs}/00000.tar -> {out}/00000.parquet (new)",
        f"{small_inputs}/00001.tar -> {out}/00001.parquet (new)",
        f"{small_inputs}/00002.tar -> {out}/00002.parquet (new, but it is not there)",
        f"{small_inputs}/00003.tar -> {out}/00003.parquet (new, but it is not there)",
    ]
    assert end == "4 of 4 shards to do, 2 of which cannot be read; nothing was written."
    assert not (tmp_path / "out").exists()


def test_what_overwrite_would_delete_is_said_and_kept(start, tiny_engine, small_inputs, tmp_path):
    start()
    before = files(tmp_path / "out")
    config = make_config(tiny_engine, small_inputs, overwrite=True, prompt="What is it?")
    assert ("overwrite", f"--overwrite would delete the captions of 2 shards in {tmp_path}/out.") in said(config)
    assert files(tmp_path / "out") == before
