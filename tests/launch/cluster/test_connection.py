import sys
from pathlib import Path

import pytest

from recap_fast.errors import ConfigError
from recap_fast.launch.cluster.connection import connect


def test_without_ray_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'recap-fast\[ray\]'"), connect("auto", None):
        pass


@pytest.mark.parametrize(
    ("content", "refusal"), [(None, "cannot be read"), ("{", "cannot be read"), ("[1]", "give a JSON object")]
)
def test_a_runtime_environment_that_is_none_is_refused(tmp_path, content, refusal):
    path = tmp_path / "environment.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=refusal), connect("auto", Path(path)):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_where_nobody_listens_the_error_says_how_to_start_a_cluster(address):
    refusal = f"--ray {address}: no cluster answers there"
    with pytest.raises(ConfigError, match=refusal), connect(address, None):
        pass
