"""The command line: one group, and a file for each family of commands.

Exit codes: 0 complete; 1 failure; 2 usage; 3 complete, but more errors than --max-error-rate; 4 `verify` found a gap,
or `replay` another caption; 75 stopped by a signal, the same command goes on; 128 + n killed by signal n.
"""

import logging
import sys

import click

from recap_fast.cli import after
from recap_fast.cli.bench import bench, tune
from recap_fast.cli.build import build_engine
from recap_fast.cli.doctor import doctor
from recap_fast.cli.failures import failures
from recap_fast.cli.messages import StderrHandler, exit_with_sentence, open_standard_streams, show_without_secrets
from recap_fast.cli.plan import plan
from recap_fast.cli.run import run
from recap_fast.cli.status import status
from recap_fast.cli.verify import verify
from recap_fast.version import __version__

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "show_default": True,
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --num_slots, as img2dataset spells it
}


COMPLETION = """
\b
Complete commands and options with the Tab key (zsh: zsh_source):
  eval "$(_RECAP_FAST_COMPLETE=bash_source recap-fast)"
"""


@click.group(context_settings=SETTINGS, epilog=COMPLETION)
@click.version_option(__version__, "-V", "--version", prog_name="recap-fast")
def cli() -> None:
    """Captions web-scale image datasets: images in, Parquet files of captions out.

    \b
    1. recap-fast build-engine RECIPE --checkpoint DIR --output ENGINE
    2. recap-fast run --engine ENGINE --shards '{00000..00099}.tar' --output OUT
    3. recap-fast verify OUT
    4. recap-fast report OUT
    """


for command in (build_engine, tune, plan, run, status, failures, verify, *after.COMMANDS, bench, doctor):
    cli.add_command(command)


def main() -> None:
    """The entry point."""
    open_standard_streams()
    sys.excepthook = show_without_secrets
    logging.getLogger("recap_fast").addHandler(StderrHandler())
    exit_with_sentence(cli, lambda text: click.echo(text, err=True))
