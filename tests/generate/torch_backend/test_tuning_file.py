"""The file with what was measured of an engine on each device."""

import json

import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.torch_backend.tuning_file import read_tuned_rates, read_tuning, write_tuning


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"devices": []}',
        '{"devices": {"a": {}}}',
        '{"devices": {"a": {"num_slots": 0, "prefill_images": 1}}}',
        '{"devices": {"a": {"num_slots": 1.5, "prefill_images": 1}}}',
        '{"devices": {"a": {"num_slots": 1000000000, "prefill_images": 1}}}',
        '{"devices": {"a": 7}}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tuning\.json.*\. Delete it, or tune the engine again\."):
        read_tuning(tmp_path, "a")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"images_per_s": 0, "measured": "2026-11-27"}, "must be a number above 0, not 0"),
        ({"measured": "2026-11-27"}, "'devices.a.images_per_s' is missing"),
        ({"images_per_s": 9.5, "measured": 3}, "must be a string, not 3"),
    ],
)
def test_a_rate_that_is_none_is_refused(tmp_path, entry, reason):
    (tmp_path / "tuning.json").write_text(json.dumps({"devices": {"a": entry}}))
    with pytest.raises(ConfigError, match=rf"tuning\.json.*{reason}.*Delete it"):
        read_tuned_rates(tmp_path)


def test_the_rate_of_each_device(tmp_path):
    assert read_tuned_rates(tmp_path) == {}
    for name, rate in (("NVIDIA H200", 102.4), ("NVIDIA L4", 9.5)):
        write_tuning(tmp_path, name, {"num_slots": 8, "prefill_images": 2, "images_per_s": rate, "measured": "2026"})
    assert {name: found.images_per_s for name, found in read_tuned_rates(tmp_path).items()} == {
        "NVIDIA H200": 102.4,
        "NVIDIA L4": 9.5,
    }
