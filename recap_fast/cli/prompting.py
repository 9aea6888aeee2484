"""Options that decide what is asked of each image, and how its captions are decoded; `run` and `bench` share them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.cli.command import option
from recap_fast.cli.options import FILE
from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.errors import ConfigError

PROMPTING = (
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
    option("--seed", type=int, default=0, metavar="N", help="Random seed for sampling."),
    option("--loop-stop/--no-loop-stop", default=True, help="End captions that repeat themselves."),
)


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
