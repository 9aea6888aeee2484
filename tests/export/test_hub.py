"""Exports to the Hub: what the card says, what arrives, and what is refused before anything is sent."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from support import exports
from support.exports import below, make_output, run_export
from support.hub_fake import TOKEN, HubFake
from support.shard_files import write_tar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export.config import ExportConfig
from recap_fast.export.hub import license_of
from recap_fast.records import Selection
from recap_fast.write.output_folder import OutputFolder

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's own calls
LLAMA = "llava-llama3-8b-fp8"


def members(num: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{i:09d}.png", exports.picture(i)) for i in range(first, first + num)]


def change(row: dict[str, Any]) -> None:
    if row["index"] == 1:
        row |= {"re_caption": None, "status": "corrupt"}
    if row["index"] == 2:
        row |= {"flags": ["loop"]}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputFolder:
    """Two shards of three samples, by an engine of LLaMA-3, with a nasty prompt."""
    marks = {"engine": LLAMA, "prompt": "Describe <image> | now\n---\n# x", "versions": "recap-fast 1"}
    selection = {field.name: field.default for field in fields(Selection)}
    monkeypatch.setattr(exports, "MARKS", {**marks, **selection})
    write_tar(tmp_path / "in/a.tar", members(3))
    write_tar(tmp_path / "in/b.tar", members(3, first=3))
    return make_output(tmp_path / "out", tmp_path / "in", change=change)


def header_of(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def test_the_dataset_has_the_files_and_a_card_and_nothing_else(
    made: OutputFolder, tmp_path: Path, hub: HubFake
) -> None:
    result = run_export(made, "hub", tmp_path / "to", repo="me/captions", private=True)
    repo = hub.repos["me/captions"]
    assert repo.files == below(tmp_path / "to")
    assert sorted(repo.files) == ["README.md", *(f"data/train-0000{i}-of-00002.parquet" for i in range(2))]
    assert repo.visibility == "private"
    assert result.advice == [f"uploaded to {hub.endpoint}/datasets/me/captions"]
    assert result.verified is not None
    assert result.verified.endswith("; the Hub has each file byte for byte")


@pytest.mark.parametrize("more", [{}, {"images": False}, {"mix_p": 0.5, "columns": "key,flags,width"}])
def test_the_cards_columns_are_those_of_the_files(
    made: OutputFolder, tmp_path: Path, hub: HubFake, more: dict[str, Any]
) -> None:
    run_export(made, "hub", tmp_path / "to", repo="me/captions", **more)
    card = (tmp_path / "to/README.md").read_text()
    said = {word for word in ("`(shard, index)`", "`metadata`", "`caption` is one of the two") if word in card}
    assert said == ({"`caption` is one of the two"} if "mix_p" in more else {"`(shard, index)`", "`metadata`"})
    header = header_of(card)
    listed = datasets.Features._from_yaml_list(header["dataset_info"]["features"])
    paths = sorted((tmp_path / "to/data").iterdir())
    for path in paths:
        assert datasets.Features.from_arrow_schema(pq.read_schema(path)) == listed
    loaded = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == listed
    assert loaded["key"][:] == [f"{i:09d}" for i in range(6)]


def test_the_card_says_what_the_captions_were_made_with(made: OutputFolder, tmp_path: Path, hub: HubFake) -> None:
    run_export(made, "hub", tmp_path / "to", repo="me/captions")
    text = (tmp_path / "to/README.md").read_text()
    header = header_of(text)
    assert header["license"] == "llama3"
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    assert "| prompt | Describe &lt;image&gt; \\| now<br>---<br># x |" in text
    assert f"| engine | {LLAMA} |" in text
    assert "| versions | recap-fast 1 |" in text
    assert "| rows with the flag loop | 2 |" in text
    assert "6 images, 2 of them without a caption" in text
    assert "Built with Meta Llama 3." in text
    assert str(tmp_path) not in text


def test_the_license_is_the_models_or_the_one_that_was_given(tmp_path: Path) -> None:
    def config(**more: Any) -> ExportConfig:
        return ExportConfig.of({"output": "out", "to": "hub", "target": tmp_path, "repo": "me/x", **more})

    assert license_of(config(), {"engine": "llava-llama3-8b"}) == "llama3"
    assert license_of(config(license="cc-by-4.0"), {"engine": "llava-llama3-8b"}) == "cc-by-4.0"
    assert license_of(config(license="other"), {"engine": "recap-tiny"}) == "other"
    with pytest.raises(ConfigError, match="license of the engine recap-tiny is not known: give --license NAME"):
        license_of(config(), {"engine": "recap-tiny"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repo": None}, "needs --repo NAME/DATASET"),
        ({"repo": "captions"}, "NAME/DATASET"),
        ({"license": "my: license\n"}, "give a name that the Hub uses"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    made: OutputFolder, tmp_path: Path, hub: HubFake, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_export(made, "hub", tmp_path / "to", **{"repo": "me/captions", **given})
    assert not (tmp_path / "to/data").exists()
    assert hub.repos == {}


def test_what_was_cut_off_goes_on_without_sending_again(made: OutputFolder, tmp_path: Path, hub: HubFake) -> None:
    hub.refusals["/commit/"] = 500
    with pytest.raises(RecapError, match="me/captions cannot be uploaded") as caught:
        run_export(made, "hub", tmp_path / "to", repo="me/captions")
    assert TOKEN not in str(caught.value)
    assert len(hub.uploads) == 2
    hub.refusals.clear()
    result = run_export(made, "hub", tmp_path / "to", repo="me/captions")
    assert len(hub.uploads) == 2
    assert result.already == 2
    assert hub.repos["me/captions"].files == below(tmp_path / "to")


def test_nothing_is_uploaded_while_a_shard_is_missing(made: OutputFolder, tmp_path: Path, hub: HubFake) -> None:
    write_tar(tmp_path / "in/b.tar", members(3, first=90))
    result = run_export(made, "hub", tmp_path / "to", repo="me/captions")
    assert result.exit_code == 1
    assert "nothing was uploaded" in result.advice[-1]
    assert hub.repos == {}
    whole = [str(tmp_path / "in/a.tar")]
    assert run_export(made, "hub", tmp_path / "to", repo="me/captions", shards=whole).exit_code == 0
    assert "data/train-00000-of-00001.parquet" in hub.repos["me/captions"].files


def test_a_card_that_someone_wrote_stays_and_is_uploaded(made: OutputFolder, tmp_path: Path, hub: HubFake) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/README.md").write_text("---\nlicense: mit\n---\nmine\n")
    result = run_export(made, "hub", tmp_path / "to", repo="me/captions")
    assert hub.repos["me/captions"].files["README.md"] == b"---\nlicense: mit\n---\nmine\n"
    assert any("README.md was not written by this export" in line for line in result.advice)
