"""Options that several commands share, so that they read the same everywhere."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from recap_fast.cli.command import F, option
from recap_fast.defaults import MAX_FIELD_TOKENS, MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError

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
prompt = (
    option(
        "--prompt",
        multiple=True,
        metavar="TEXT",
        help="Question to ask, NAME=TEXT, or a name that the engine has. Repeatable.  [default: the engine's]",
    ),
    option("--prompt-file", type=FILE, multiple=True, help="Text file with what --prompt takes. Repeatable."),
    option("--num-captions", type=int, default=1, metavar="N", help="Make N captions of each prompt, by sampling."),
    option(
        "--max-field-tokens",
        type=int,
        default=MAX_FIELD_TOKENS,
        metavar="N",
        help="Cut each field of a prompt to N tokens.",
    ),
    option("--max-new-tokens", type=int, metavar="N", help="Cut captions at N tokens.  [default: the engine's]"),
    option(
        "--temperature",
        type=float,
        metavar="X",
        help="Sampling temperature. 0 means greedy decoding.  [default: the engine's]",
    ),
    option(
        "--top-k",
        type=int,
        metavar="K",
        help="Sample from the K most likely tokens. 0 means all.  [default: the engine's]",
    ),
    option(
        "--top-p",
        type=float,
        metavar="P",
        help="Sample from the most likely tokens that add up to probability P.  [default: the engine's]",
    ),
    option("--seed", type=int, default=0, metavar="N", help="Random seed for sampling and for drawn prompts."),
    option("--loop-stop/--no-loop-stop", default=True, help="End captions that repeat themselves."),
)
"""Options that decide what is asked of each image, and how its captions are decoded."""


def with_prompts(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the prompts, from wherever they are, as `prompt`. Raises ConfigError for a file that cannot be
    read or is empty, and where both are given."""
    others = {name: value for name, value in given.items() if name != "prompt_file"}
    if given["prompt"] and given["prompt_file"]:
        raise ConfigError("--prompt and --prompt-file: give one of them.")
    return {**others, "prompt": given["prompt"] or tuple(map(_read_prompt, given["prompt_file"]))}


def _read_prompt(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompt-file {file} cannot be read: {error}") from error
    if not text:
        raise ConfigError(f"--prompt-file {file} is empty: write a question into it.")
    return text
