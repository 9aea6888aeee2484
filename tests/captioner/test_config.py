import pytest

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


def test_a_prompt_is_a_text_or_several(tmp_path):
    given = {"engine": tmp_path}
    assert CaptionConfig.of({**given, "prompt": None}).prompt == ()
    assert CaptionConfig.of({**given, "prompt": "What?"}).prompt == ("What?",)
    assert CaptionConfig.of({**given, "prompt": ["What?", "b=Who?"]}).prompt == ("What?", "b=Who?")
    for wrong in ({"a": "What?"}, b"What?", 5, [5], [["What?"]]):
        with pytest.raises(TypeError, match=r"prompt is .*: give a text, or a list of texts"):
            CaptionConfig.of({**given, "prompt": wrong})
