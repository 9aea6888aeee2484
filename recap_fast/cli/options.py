"""Options that several commands share, so that they read the same everywhere."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from recap_fast.cli.command import F, option
from recap_fast.defaults import MAX_IMAGE_PIXELS

_URL = r"[a-zA-Z][a-zA-Z0-9+.-]+://"


class InputPath(click.Path):
    """A path, a URL or a pattern that is not empty."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses an empty value, which is most often a variable of the shell that is not set."""
        if not str(value).strip():
            self.fail("it is empty. Is a variable of your shell not set?", param, ctx)
        return super().convert(value, param, ctx)


class LocalPath(InputPath):
    """A path on this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses URLs."""
        if re.match(_URL, str(value)):
            self.fail(f"{value} is a URL. Give a local path, and copy the files from or to it.", param, ctx)
        return super().convert(value, param, ctx)


class OutputPath(InputPath):
    """A local folder, or the URL of one on an object store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Checks a local path; whether a URL can be used is for the store to say."""
        if re.match(_URL, str(value)):
            return value
        return super().convert(value, param, ctx)


INPUT = InputPath(readable=False)
OUTPUT = OutputPath(file_okay=False)
FOLDER = LocalPath(path_type=Path, file_okay=False)
FILE = LocalPath(path_type=Path, dir_okay=False)
ANY_PATH = LocalPath(path_type=Path)

engine = option("--engine", type=FOLDER, required=True, metavar="DIR", help="Engine directory that build-engine made.")
device = option("--device", default="auto", metavar="NAME", help="Device to run on: auto, cpu, cuda or cuda:N.")
image_column = option(
    "--image-column", metavar="NAME", help="Parquet column with the images.  [default: found by its type]"
)
images = option(
    "--images",
    type=click.Choice(["first", "all"]),
    default="first",
    help="Which images to caption if a sample has several.",
)
image_key = option("--image-key", metavar="NAME", help="Caption only the image with this extension or column.")


def inputs(text: str, *, required: bool = False) -> Callable[[F], F]:
    """`--shards`, with what it is for in this command."""
    return option("--shards", "--input", multiple=True, required=required, type=INPUT, help=text)


relocate = option(
    "--relocate", multiple=True, metavar="OLD=NEW", help="The inputs have moved from folder OLD to NEW. Repeatable."
)
read_timeout = option(
    "--read-timeout",
    type=float,
    default=30.0,
    metavar="SECONDS",
    help="Give up a read that brings no data for this long.",
)
max_image_pixels = option(
    "--max-image-pixels", type=int, metavar="N", help=f"Refuse images of more pixels.  [default: {MAX_IMAGE_PIXELS:,}]"
)
verify = option("--verify/--no-verify", default=True, help="Compare the engine's files with their checksums.")
decoder = option(
    "--decoder", type=click.Choice(["auto", "dali", "pillow"]), default="auto", help="Library that decodes images."
)
speed = (
    device,
    option("--num-slots", type=int, metavar="N", help="Generate N captions at once.  [default: the engine's]"),
    option("--prefill-images", type=int, metavar="N", help="Prefill up to N images at once.  [default: the engine's]"),
    option("--decode-threads", type=int, metavar="N", help="Decode images with N threads.  [default: half the CPUs]"),
    decoder,
    verify,
)
"""Options that decide how fast `run` and `bench` are."""
