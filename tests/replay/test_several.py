"""Rows of several captions, or of a drawn prompt, are made again whole, and each caption is compared by its name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import replays
from support.manual import ROOT
from support.replays import again, rows, with_mark, with_row

import recap_fast
from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError

PROMPTS = ["short=Name it.", "What is it? {org_caption}", "long=Please say all that there is."]
NAMES = ["short", "prompt2", "long"]
SETS = """
[prompts]
short = "Name it."
long = "Please say all that there is."
[prompt_sets]
mix = { short = 1, long = 1 }
both = ["short", "long"]
"""


@pytest.fixture(scope="module")
def several(demo_engine: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three captions of each image."""
    output = tmp_path_factory.mktemp("several") / "out"
    return replays.caption(demo_engine, drawn, output, prompt=PROMPTS, max_new_tokens=40)


@pytest.fixture(scope="module")
def engine_of_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    recipe = (ROOT / "engines/recap_tiny.toml").read_text(encoding="utf-8")
    prompt = re.compile(r'^prompt = ".*"$', re.MULTILINE)
    (folder / "sets.toml").write_text(prompt.sub('prompt = "mix"', recipe) + SETS, encoding="utf-8")
    recap_fast.build_engine(folder / "sets.toml", ROOT / "demo/recap-tiny", folder / "engine")
    return folder / "engine"


def with_caption(output: Path, copy: Path, place: str, name: str, **changed: Any) -> Path:
    """A copy of an output in which one caption of a row has other values."""
    captions = [each | changed if each["name"] == name else each for each in rows(output)[place]["captions"]]
    first = {"re_caption": captions[0]["text"], **{key: captions[0][key] for key in ("finish_reason", "num_tokens")}}
    return with_row(output, copy, place, captions=captions, **first)


def replayed(output: Path, place: str, engine: Path, *words: str) -> tuple[int, str]:
    given = ["replay", str(output), place, "--engine", str(engine), "--device", "cpu", *words]
    done = CliRunner().invoke(cli, given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.mark.parametrize("place", ["web:0", "web:2", "table:1", "00000:0"])
def test_all_captions_are_made_again(several: Path, demo_engine: Path, place: str) -> None:
    found = again(several, place, demo_engine)
    assert found.is_same
    assert [each.label for each in found.captions] == NAMES
    assert [each.now.text for each in found.captions] == [each["text"] for each in rows(several)[place]["captions"]]
    assert found.divergence is None
    total = sum(each["num_tokens"] for each in rows(several)[place]["captions"])
    said = f"{place} has the same 3 captions again (short, prompt2, long), all of their {total} tokens.\n"
    assert replayed(several, place, demo_engine) == (0, said)


def test_an_image_that_fails_fails_again(several: Path, demo_engine: Path) -> None:
    found = again(several, "web:1", demo_engine)
    assert found.is_same
    assert found.captions == ()
    code, text = replayed(several, "web:1", demo_engine)
    assert (code, text.startswith("web:1 fails again with truncated: ")) == (0, True)


@pytest.mark.parametrize("name", NAMES)
def test_the_caption_that_parts_is_named_and_where(several: Path, demo_engine: Path, tmp_path: Path, name: str) -> None:
    number = NAMES.index(name)
    text = rows(several)["web:0"]["captions"][number]["text"]
    begin, _, rest = text.partition(" ")
    changed = with_caption(several, tmp_path / "out", "web:0", name, text=f"{begin} nothing {rest}")
    found = again(changed, "web:0", demo_engine)
    assert not found.is_same
    assert [each.is_same for each in found.captions] == [other != name for other in NAMES]
    assert [each.divergence is None for each in found.captions] == [other != name for other in NAMES]
    parted = found.captions[number].divergence
    assert parted.alike == begin
    assert parted.tie.margin > 0
    assert found.divergence == (parted if number == 0 else None)
    code, said = replayed(changed, "web:0", demo_engine)
    lines = said.splitlines()
    assert code == 4
    assert lines[0] == f"web:0 has another caption of {name} now. It differs after {parted.num_alike} tokens.".replace(
        " 1 tokens", " 1 token"
    )
    assert lines[1] == f'  alike        "{begin}"'
    assert lines[2].startswith('  row          " nothing ')
    assert lines[4].startswith("  row's token  ")
    assert lines[7] == f"  same         {', '.join(other for other in NAMES if other != name)}"


def test_the_logits_are_those_of_the_prompt_that_parts(several: Path, demo_engine: Path, tmp_path: Path) -> None:
    """Alone, the prompt has the same choice."""
    place, caption = "00000:0", rows(several)["00000:0"]["captions"][2]
    changed = with_caption(several, tmp_path / "out", place, "long", text=f"Nothing, {caption['text']}")
    of_all = again(changed, place, demo_engine).captions[2].divergence
    photos = Path(rows(several)[place]["file_name"]).name
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / photos).write_bytes(replays.draw(6))
    alone = replays.caption(demo_engine, inputs, tmp_path / "alone", prompt=PROMPTS[2], max_new_tokens=40)
    (row,) = rows(alone).values()
    assert row["re_caption"] == caption["text"]
    changed = with_row(alone, tmp_path / "changed", "00000:0", re_caption=f"Nothing, {caption['text']}")
    of_one = again(changed, "00000:0", demo_engine).divergence
    assert of_all == of_one


def test_a_caption_that_is_missing_is_told_of(several: Path, demo_engine: Path, tmp_path: Path) -> None:
    captions = rows(several)["web:0"]["captions"]
    changed = with_row(several, tmp_path / "out", "web:0", captions=captions[:2])
    code, said = replayed(changed, "web:0", demo_engine)
    assert code == 4
    assert said.splitlines()[:2] == [
        "web:0: now there is a caption of long, and the row has none.",
        "  same         short, prompt2",
    ]


def test_a_row_whose_first_caption_is_not_that_of_its_list_is_told_of(
    several: Path, demo_engine: Path, tmp_path: Path
) -> None:
    changed = with_row(several, tmp_path / "out", "web:0", re_caption="Nothing.")
    code, said = replayed(changed, "web:0", demo_engine)
    assert code == 4
    assert said.splitlines()[:2] == [
        "web:0 has the same captions again, but its re_caption, finish_reason or num_tokens is not the first one's.",
        f"  same         {', '.join(NAMES)}",
    ]


def test_all_of_it_is_json(several: Path, demo_engine: Path, tmp_path: Path) -> None:
    changed = with_caption(several, tmp_path / "out", "web:0", "long", text="Nothing.")
    found = json.loads(replayed(changed, "web:0", demo_engine, "--json")[1])
    assert found["same"] is False
    assert [(each["label"], each["same"]) for each in found["captions"]] == [
        *zip(NAMES, [True, True, False], strict=True)
    ]
    last = found["captions"][2]
    assert (last["row"]["text"], last["now"]["text"]) == ("Nothing.", rows(several)["web:0"]["captions"][2]["text"])
    assert {*last["divergence"]["tie"]} == {"row", "now", "margin", "precision", "steps", "draw"}


def test_samples_of_a_prompt_are_drawn_again(demo_engine: Path, drawn: Path, tmp_path: Path) -> None:
    given = {"num_captions": 2, "prompt": PROMPTS[:2], "temperature": 1.0, "seed": 7, "max_new_tokens": 12}
    output = replays.caption(demo_engine, drawn / "table.parquet", tmp_path / "out", **given)
    for place in ("table:0", "table:1"):
        found = again(output, place, demo_engine)
        assert found.is_same
        assert [each.label for each in found.captions] == ["short", "short:2", "prompt2", "prompt2:2"]
        assert found.captions[0].now != found.captions[1].now
    captions = rows(output)["table:0"]["captions"]
    captions[3] |= {"text": f"{captions[3]['text']} and nothing"}
    found = again(with_row(output, tmp_path / "changed", "table:0", captions=captions), "table:0", demo_engine)
    assert [each.label for each in found.captions if not each.is_same] == ["prompt2:2"]


def test_a_drawn_prompt_is_drawn_again(engine_of_sets: Path, drawn: Path, tmp_path: Path) -> None:
    output = replays.caption(engine_of_sets, drawn, tmp_path / "out", max_new_tokens=12)
    names = set()
    for place, row in rows(output).items():
        found = again(output, place, engine_of_sets)
        assert found.is_same
        if row["status"] == "ok":
            (one,) = found.captions
            assert one.label == row["captions"][0]["name"]
            names.add(one.label)
            said = f"{place} has the same caption of {one.label} again, all of its {row['num_tokens']} tokens.\n"
            assert replayed(output, place, engine_of_sets) == (0, said)
    assert names == {"short", "long"}


@pytest.mark.parametrize("prompt", [["both"], ["short"], ["short", "x=Another one?"]], ids=str)
def test_prompts_of_the_engine_are_known_by_their_texts(
    engine_of_sets: Path, drawn: Path, tmp_path: Path, prompt: list[str]
) -> None:
    output = replays.caption(engine_of_sets, drawn / "web.tar", tmp_path / "out", prompt=prompt, max_new_tokens=12)
    assert again(output, "web:0", engine_of_sets).is_same


def test_an_engine_with_other_sets_is_another_engine(
    engine_of_sets: Path, demo_engine: Path, drawn: Path, tmp_path: Path
) -> None:
    output = replays.caption(engine_of_sets, drawn / "web.tar", tmp_path / "out", max_new_tokens=12)
    with pytest.raises(ConfigError, match=r"is not the engine that made these rows:\n(?s:.*)  prompts: "):
        again(output, "web:0", demo_engine)


@pytest.mark.parametrize("schema", [2, 3])
def test_an_output_of_an_earlier_version_is_made_again(
    captions: Path, demo_engine: Path, tmp_path: Path, schema: int
) -> None:
    import pyarrow.parquet as pq

    output = with_mark(captions, tmp_path / "out", "schema", schema)
    lacking = ["captions"] if schema == 3 else ["captions", "flags", "duplicate_of"]
    path = output / "data/web.parquet"
    pq.write_table(pq.read_table(path).drop_columns(lacking), path)
    for place in ("web:0", "web:1"):
        found = again(output, place, demo_engine)
        assert found.is_same
        assert (found.captions, found.notes) == ((), ())
    assert found.now.status == "truncated"
