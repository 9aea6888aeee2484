"""Which store an address means."""

from pathlib import Path

from recap_fast.addresses import is_remote, public_url
from recap_fast.errors import ConfigError
from recap_fast.store.cloud import CloudStore
from recap_fast.store.connection import SCHEMES, is_cloud
from recap_fast.store.local import LocalStore
from recap_fast.store.store import Store


def open_store(address: str | Path) -> Store:
    """The store of an output: a local folder, by its path or as file://, or an s3://, gs:// or az:// URL.

    Nothing is read or made yet. Raises ConfigError where nothing can be written to.
    """
    text = str(address)
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in SCHEMES and not rest.startswith("//"):
        raise ConfigError(f"{text} is neither a URL nor a local folder: write {scheme}://BUCKET/PATH.")
    if isinstance(address, Path) or not is_remote(text):
        return LocalStore(Path(address))
    if text.lower().startswith("file:///"):
        return LocalStore(Path(text[len("file://") :]))
    if is_cloud(text):
        return CloudStore(text)
    raise ConfigError(
        f"{public_url(text)} cannot hold captions: write them to a local folder, s3://, gs:// or az://, and copy them "
        "from there."
    )
