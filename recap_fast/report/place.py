"""Where the page of a report goes: never over a file of a run, or any other file that is no report."""

from pathlib import Path

from recap_fast.addresses import is_remote
from recap_fast.errors import ConfigError
from recap_fast.report.rendering import MARK, MARK_BYTES
from recap_fast.write.output_folder import FOLDERS, OutputFolder

NAME = "report.html"


def page_path(output: OutputFolder, html: Path | None) -> Path:
    """The path of the page: the one that was given, else that of `NAME` in a local output, or in the current folder.

    Raises ConfigError for a folder where a run keeps its files, and for a file that is no report.
    """
    is_local = not is_remote(output.address)
    path = html or (Path(output.address) / NAME if is_local else Path(NAME))
    if is_local:
        for folder in FOLDERS:
            if (Path(output.address) / folder).resolve() in path.resolve().parents:
                raise ConfigError(f"--html {path}: a run keeps its own files there. Give a path outside of {folder}/.")
    if html and path.is_file() and not _is_page(path):
        raise ConfigError(f"--html {path} is there and is no report: it is not replaced. Give another path.")
    return path


def _is_page(path: Path) -> bool:
    """Whether a file is a report, or empty: only such a file is replaced."""
    try:
        with path.open("rb") as file:
            begin = file.read(MARK_BYTES)
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be read ({error.strerror or error}): give another path.") from error
    return not begin or MARK.encode() in begin
