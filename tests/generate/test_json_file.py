from pathlib import Path

import pytest

from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import check_readable, read_json


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    (tmp_path / "engine.json").write_text("{}")
    assert read_json(tmp_path / "engine.json") == {}

    def deny(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    for read in (check_readable, read_json):
        with pytest.raises(ConfigError, match=rf"^{tmp_path}/engine.json cannot be read: permission denied\."):
            read(tmp_path / "engine.json")


def test_only_a_config_that_is_missing_is_said_to_belong_to_a_checkpoint(tmp_path):
    check_readable(tmp_path / "engine.json")
    with pytest.raises(ConfigError, match=r"config.json cannot be read: No such file. A checkpoint is a folder with a"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"engine.json cannot be read: No such file\.$"):
        read_json(tmp_path / "engine.json")
