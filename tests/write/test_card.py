from pathlib import Path

import pytest
import yaml
from support.ledgers import path_of

from recap_fast.write.card import write_card
from recap_fast.write.output_folder import OutputFolder

FACTS = {"engine": "tiny", "prompt": "What is\nthis?  <|eot_id|>"}


def test_the_card_names_the_data_files_and_the_facts(tmp_path):
    write_card(OutputFolder.at(tmp_path), FACTS)
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["configs"] == [
        {"config_name": "default", "data_files": ["data/**/*.parquet", "partial/**/*.parquet"]},
        {"config_name": "partial", "data_files": "partial/**/*.parquet"},
    ]
    assert "| engine | tiny |\n| prompt | What is<br>this? <\\|eot_id\\|> |\n" in text
    assert "{" not in text


def test_once_a_shard_is_finished_the_default_has_finished_ones_alone(tmp_path):
    output = OutputFolder.at(tmp_path)
    write_card(output, FACTS)
    path_of(output, output.data("a")).parent.mkdir()
    path_of(output, output.data("a")).touch()
    write_card(output, FACTS)
    assert "  data_files:\n  - data/**/*.parquet\n- config_name: partial\n" in (tmp_path / "README.md").read_text()


def test_what_a_user_wrote_stays_and_marked_pieces_are_written_anew(tmp_path):
    card = tmp_path / "README.md"
    write_card(OutputFolder.at(tmp_path), FACTS)
    edited = card.read_text().replace("tags:\n", "license: cc-by-4.0\ntags:\n- mine\n") + "## My own\n\n\xe9 {rows}\n"
    edited = edited.replace("# Captions by recap-fast", "# Cats")
    card.write_text(edited)
    write_card(OutputFolder.at(tmp_path), {"engine": "other"})
    table = "| engine | tiny |\n| prompt | What is<br>this? <\\|eot_id\\|> |\n"
    assert table in edited
    assert card.read_text() == edited.replace(table, "| engine | other |\n")


def test_a_users_own_card_stays(tmp_path):
    (tmp_path / "README.md").write_bytes(b"# Mine \xff")
    before = (tmp_path / "README.md").stat()
    write_card(OutputFolder.at(tmp_path), FACTS)
    assert (tmp_path / "README.md").read_bytes() == b"# Mine \xff"
    assert (tmp_path / "README.md").stat().st_ino == before.st_ino


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_else_is_in_its_place_stays(tmp_path, put):
    put(tmp_path / "README.md")
    write_card(OutputFolder.at(tmp_path), FACTS)
    assert not (tmp_path / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("value", ["{braces}", "{0}", "%s"])
def test_a_question_may_hold_any_character(tmp_path, value):
    write_card(OutputFolder.at(tmp_path), {"prompt": value})
    assert f"| prompt | {value} |" in (tmp_path / "README.md").read_text()
