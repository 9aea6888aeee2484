"""The inputs of a run, as `shards/` finds them and `write/` names its files after them; and the parts of an address."""

from dataclasses import dataclass, field, replace

from recap_fast.errors import ConfigError
from recap_fast.records import Columns, Shard


@dataclass(frozen=True, slots=True)
class ShardSet:
    """The shards of a run, in the order in which the user gave them."""

    root: str
    """The inputs' common parent: a local folder, a URL, or '' where they have none."""
    shards: tuple[Shard, ...]
    columns: Columns = field(default_factory=Columns)
    """Of Parquet shards."""

    def below(self, root: str) -> "ShardSet":
        """The same shards, named from a folder higher up. Raises ConfigError where they do not lie below it."""
        mine, other = path_parts(self.root), path_parts(root)
        if mine[: len(other)] != other:
            raise ConfigError(
                f"the inputs are in {self.root or 'different places'}; this output folder is for those below {root}, "
                "from which its files are named: give another --output."
            )
        prefix = "".join(f"{part}/" for part in mine[len(other) :])
        return replace(self, root=root, shards=tuple(replace(s, name=f"{prefix}{s.name}") for s in self.shards))


def is_remote(url: str) -> bool:
    """Whether an address is an fsspec URL rather than a local path."""
    return "://" in url


def without_query(url: str) -> str:
    """A path or URL without what follows the '?' in a link of the web."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def path_parts(url: str) -> list[str]:
    """Of a path the folders; of a URL the scheme and the folders. '' has none."""
    if is_remote(url):
        scheme, _, path = without_query(url).partition("://")
        return [scheme.replace(":", "-"), *(part for part in path.split("/") if part)]
    return [part for part in url.split("/") if part]
