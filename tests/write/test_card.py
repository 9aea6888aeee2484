from pathlib import Path

import pytest

from recap_fast.write.card import write_card
from recap_fast.write.output_folder import OutputFolder

FACTS = {"engine": "tiny", "prompt": "What is\nthis?  <|eot_id|>"}


def test_the_card_names_the_data_files_and_the_facts(tmp_path):
    write_card(OutputFolder(tmp_path), FACTS)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nconfigs:\n- config_name: default\n  data_files: data/**/*.parquet\n")
    assert "| engine | tiny |\n| prompt | What is this? <\\|eot_id\\|> |\n" in text
    assert "{rows}" not in text


def test_an_own_card_is_written_anew_and_a_users_stays(tmp_path):
    write_card(OutputFolder(tmp_path), FACTS)
    write_card(OutputFolder(tmp_path), {"engine": "other"})
    assert "| engine | other |" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_bytes(b"# Mine \xff")
    write_card(OutputFolder(tmp_path), FACTS)
    assert (tmp_path / "README.md").read_bytes() == b"# Mine \xff"


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_else_is_in_its_place_stays(tmp_path, put):
    put(tmp_path / "README.md")
    write_card(OutputFolder(tmp_path), FACTS)
    assert not (tmp_path / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("value", ["{braces}", "{0}", "%s"])
def test_a_question_may_hold_any_character(tmp_path, value):
    write_card(OutputFolder(tmp_path), {"prompt": value})
    assert f"| prompt | {value} |" in (tmp_path / "README.md").read_text()
