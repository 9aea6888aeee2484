"""What the manual says to type runs, page by page, as a reader would type it."""

import pytest
from support.manual import PAGES, Session, blocks, command_options, used_commands

from recap_fast.cli.main import cli

LANGUAGES = "bash", "python", "sql"
RUNNING = [page for page in PAGES if any(block.runs for block in blocks(page, *LANGUAGES))]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, folder_for):
    session = Session(folder_for(page), page)
    for block in blocks(page, *LANGUAGES):
        if block.runs:
            session.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_of_shell_blocks_exist(page):
    for line, name, options in used_commands(page):
        assert name in cli.commands, f"{page.name}:{line}: there is no command {name}"
        unknown = {*options} - command_options(name) - {"--help"}
        assert not unknown, f"{page.name}:{line}: {name} has no {unknown}"
