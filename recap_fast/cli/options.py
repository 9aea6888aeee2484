"""Options that several commands share, so that they read the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from recap_fast.defaults import MAX_FIELD_TOKENS, MAX_IMAGE_PIXELS

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
F = TypeVar("F", bound=Callable[..., Any])

engine = click.option("--engine", type=FOLDER, required=True, help="Engine directory, from build-engine.")
device = click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
image_column = click.option(
    "--image-column",
    help="Column of Parquet inputs with the images, or a part of one: image.bytes.  [default: found by type]",
)
relocate = click.option(
    "--relocate", multiple=True, metavar="OLD=NEW", help="Inputs were moved from one folder to another. Repeatable."
)
read_timeout = click.option(
    "--read-timeout", type=float, default=30.0, help="Give up a read that brings nothing for so many seconds."
)
max_image_pixels = click.option(
    "--max-image-pixels", type=int, help=f"Larger images are refused.  [default: {MAX_IMAGE_PIXELS:,}]"
)
max_field_tokens = click.option(
    "--max-field-tokens", type=int, default=MAX_FIELD_TOKENS, help="Longer fields of the prompt are cut."
)
verify = click.option(
    "--verify/--no-verify", default=True, help="Compare the engine's files with their checksums while they are loaded."
)


def speed(command: F) -> F:
    """Adds the options that `run` and `bench` have in common: decoder, device, sizes, length, verification."""
    options = (
        click.option("--decoder", type=click.Choice(["auto", "dali", "pillow"]), default="auto", help="Image decoder."),
        click.option("--decode-threads", type=int, help="Threads that decode images.  [default: half the processors]"),
        device,
        click.option("--num-slots", type=int, help="Captions generated at once.  [default: the engine's]"),
        click.option("--prefill-images", type=int, help="Images that join in one step.  [default: the engine's]"),
        click.option("--max-new-tokens", type=int, help="Longest caption.  [default: the engine's]"),
        verify,
    )
    for option in reversed(options):
        command = option(command)
    return command
