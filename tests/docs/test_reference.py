"""What the manual lists is what there is: columns, statuses, options and the like, none left out and none made up."""

import json
import re
from typing import get_args

import pytest
from support.manual import PAGES, ROOT, command_options, first_column, prose

import recap_fast
from recap_fast.cli.main import cli
from recap_fast.errors import ExitCode
from recap_fast.generate.prompt import FIELDS
from recap_fast.generate.templates import TEMPLATES
from recap_fast.records import FAILURES, OK, FinishReason, ShardStatus
from recap_fast.write.flags import FLAGS
from recap_fast.write.schema import CAPTION, SCHEMA

DOCS = ROOT / "docs"
OPTIONS = {option for name in cli.commands for option in command_options(name)} | {"--help", "--version"}
OF_OTHERS = {
    *("--exclude", "--local-dir"),
    *("--max-restarts", "--shutdown-timeout", "--tee", "--log-dir", "--redirects"),
    "--array",
}
"""Options of hf, torchrun and sbatch."""


def _flat(page, heading):
    return [name for row in first_column(DOCS / page, heading) for name in row]


def test_every_column_with_its_type():
    section = (DOCS / "output.md").read_text(encoding="utf-8").partition("## Columns\n")[2].partition("\n## ")[0]
    types = [(field.name, re.sub(r"list<item: (\w+).*>", r"list of \1", str(field.type))) for field in SCHEMA]
    assert re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", section, re.MULTILINE) == types


def test_every_field_of_a_caption_with_its_type():
    section = (
        (DOCS / "output.md").read_text(encoding="utf-8").partition("## Several captions\n")[2].partition("\n## ")[0]
    )
    assert re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE) == [(f.name, str(f.type)) for f in CAPTION]


def test_every_status_of_a_row():
    assert sorted(_flat("output.md", "Statuses")) == sorted({OK, *FAILURES})


def test_every_finish_reason():
    assert sorted(_flat("output.md", "Finish reasons")) == sorted(get_args(FinishReason))


def test_every_flag():
    assert _flat("output.md", "Flags") == list(FLAGS)


def test_every_status_of_a_shard():
    assert sorted(_flat("output.md", "Statuses of shards")) == sorted(get_args(ShardStatus))


def test_every_key_of_the_files_of_an_output(grounds, tmp_path):
    recap_fast.run(grounds / "engine", grounds / "photos", tmp_path)
    for heading, path in (
        ("run.json", "run.json"),
        ("local.json", "local.json"),
        ("Done-records", "manifests/00000.json"),
    ):
        assert _flat("output.md", heading) == list(json.loads((tmp_path / path).read_bytes()))


def test_every_exit_code():
    numbers = [int(row[0]) for row in first_column(DOCS / "failures.md", "Exit codes")]
    assert numbers == sorted(ExitCode)


def test_every_field_of_prompts_and_every_template():
    assert sorted(_flat("prompts.md", "Fields")) == sorted(FIELDS)
    assert sorted(_flat("prompts.md", "Templates")) == sorted(TEMPLATES)


def test_every_command_and_its_options():
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"```\{command-line\} (\S+)\n", text)) == sorted(cli.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_option_is_made_up(page):
    spans = " ".join(re.findall(r"`([^`]+)`", prose(page)))
    named = {*re.findall(r"(?<!\S)--[a-z-]+", spans)}
    assert named <= OPTIONS | OF_OTHERS
