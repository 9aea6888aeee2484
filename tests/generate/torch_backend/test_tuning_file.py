import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.spec import Sizes
from recap_fast.generate.torch_backend.tuning_file import read_tuning, write_tuning


def test_each_device_has_its_entry(tmp_path):
    assert read_tuning(tmp_path, "a") is None
    for device, num_slots in (("a", 8), ("b", 16), ("a", 32)):
        write_tuning(tmp_path, device, {"num_slots": num_slots, "prefill_images": 2, "images_per_s": 3.5})
    assert read_tuning(tmp_path, "a") == Sizes(num_slots=32, prefill_images=2)
    assert read_tuning(tmp_path, "b") == Sizes(num_slots=16, prefill_images=2)
    assert read_tuning(tmp_path, "c") is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"devices": []}',
        '{"devices": {"a": {}}}',
        '{"devices": {"a": {"num_slots": 0, "prefill_images": 1}}}',
    ],
)
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tuning.json cannot be read .*: delete it, or tune the engine again"):
        read_tuning(tmp_path, "a")
