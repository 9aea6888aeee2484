"""The way to the C++ core: `from recap_fast.arrow_core import core`.

pyarrow comes first, so that the core is linked to the Arrow libraries inside it, and its major version must be the one
that the core was built with: the libraries keep their binary interface within a major version only.
"""

import pyarrow as pa

from recap_fast.errors import NativeError

try:
    from recap_fast import _core as core
except ImportError as error:
    raise NativeError(
        f"recap_fast._core does not load beside pyarrow {pa.__version__} ({error}). It is built for one major version "
        "of pyarrow: install recap-fast again."
    ) from error

__all__ = ["core"]


def check_arrow(built: str, installed: str) -> None:
    """Raises NativeError unless the two versions of pyarrow have the same major version."""
    if built.split(".")[0] != installed.split(".")[0]:
        raise NativeError(
            f"recap_fast._core was built with pyarrow {built}, but pyarrow {installed} is installed: "
            f"install recap-fast again, or pyarrow {built}."
        )


check_arrow(core.ARROW_VERSION, pa.__version__)
