"""An engine directory takes the place of another one: at every instant one of the two is there, or is found again.

Linux exchanges the names of the two in one step. Where the kernel or the file system cannot, the old one steps aside to
`.NAME.PROCESS.replaced` and the new one takes its name. A process that is killed between leaves no directory of that
name: whoever opens it or builds it next gives the old one its name back.
"""

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from recap_fast.atomic import is_alive, owner, sync_folder
from recap_fast.errors import ConfigError

BUILDING, REPLACED = ".building", ".replaced"
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of <fcntl.h> and <linux/fs.h>."""


def beside(folder: Path, suffix: str) -> Path:
    """This process's own name for what belongs to a folder: `.NAME.PROCESS` and the suffix."""
    return folder.parent / f".{folder.name}.{owner()}{suffix}"


def replace_folder(new: Path, folder: Path, marker: str) -> None:
    """Gives a folder's name to a new one beside it, and removes the old one: its `marker` file first, which tells a
    whole one."""
    aside = beside(folder, REPLACED)
    if exchange(new, folder):
        aside = new
    else:
        folder.rename(aside)
        try:
            new.rename(folder)
        except BaseException:
            aside.rename(folder)
            raise
    sync_folder(folder.parent)
    (aside / marker).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False, and nothing done, where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):  # an old kernel, a file system without it, a sandbox
        return False
    raise OSError(number, os.strerror(number), str(other))


def restore(folder: Path, marker: str) -> None:
    """Gives a folder back its name that stepped aside and never came back.

    Raises ConfigError where another process, which may still run, is replacing it.
    """
    folder = folder.resolve()
    if (folder / marker).is_file():
        return
    for aside, builder in _leftovers(folder, REPLACED):
        if not (aside / marker).is_file():
            continue
        if builder != owner() and is_alive(builder):
            raise ConfigError(
                f"{folder} is being replaced: try again. If no build-engine runs, rename {aside} to {folder.name}."
            )
        try:
            aside.rename(folder)
        except OSError as error:
            if (folder / marker).is_file():  # another process was faster
                return
            raise ConfigError(
                f"{folder} was being replaced when the build was killed, and {aside} cannot take its name back "
                f"({error.strerror}): move {folder} away."
            ) from error
        return


def remove_leftovers(folder: Path) -> None:
    """Removes what dead processes left of building and replacing a folder, which is `restore`d."""
    for suffix in (BUILDING, REPLACED):
        for path, builder in _leftovers(folder, suffix):
            if builder == owner() or not is_alive(builder):
                shutil.rmtree(path, ignore_errors=True)


def _leftovers(folder: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    """Folders with this suffix that belong to a folder, and the processes that made them."""
    prefix, found = f".{folder.name}.", []
    with contextlib.suppress(OSError):
        found = sorted(folder.parent.iterdir())
    for path in found:
        if path.name.startswith(prefix) and path.suffix == suffix:
            yield path, path.name.removeprefix(prefix).removesuffix(suffix)
