from recap_fast.captioner import config
from recap_fast.captioner.config import CaptionConfig


def test_processes_of_torchrun_share_the_processors_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "default_decode_threads", lambda: 32)
    for name, value in {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}.items():
        assert CaptionConfig(engine=tmp_path).decode_threads == 32
        monkeypatch.setenv(name, value)
    assert CaptionConfig(engine=tmp_path).decode_threads == 4
    assert CaptionConfig(engine=tmp_path, decode_threads=9).decode_threads == 9
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert CaptionConfig(engine=tmp_path).decode_threads == 1
