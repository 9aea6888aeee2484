"""The inputs of a run: `shards/` finds them, and `write/` gives them names."""

from dataclasses import dataclass, field

from recap_fast.addresses import public_url
from recap_fast.records import ImageFile, Selection, Shard, ShardKind


@dataclass(frozen=True, slots=True)
class Source:
    """A tar, a Parquet file, or a folder with those of its images that were asked for."""

    url: str
    """An absolute local path or an fsspec URL."""
    kind: ShardKind
    images: tuple[tuple[str, str], ...] = ()
    """Path and `Identity.text` of each image, sorted, if it is a folder."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is to caption, in the order that the user gave."""

    root: str
    """The inputs' common parent: a local folder, a URL, or '' if they have none."""
    sources: tuple[Source, ...]
    selection: Selection = field(default_factory=Selection)
    folders: tuple[str, ...] = ()
    """Folders that the user gave: images that are no longer in them are gone, even if no other image is there."""

    def unregistered(self) -> tuple[Shard, ...]:
        """Shards that are only read: each is named by its URL, and a folder is one shard."""
        return tuple(
            Shard(
                public_url(source.url),
                source.url,
                source.kind,
                tuple(ImageFile(path, path, path, version) for path, version in source.images),
            )
            for source in self.sources
        )
