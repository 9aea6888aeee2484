"""The inputs of a run: what `shards/` finds, and `write/` gives names to."""

from dataclasses import dataclass, field

from recap_fast.addresses import public_url
from recap_fast.records import ImageFile, Selection, Shard, ShardKind


@dataclass(frozen=True, slots=True)
class Source:
    """A tar, a Parquet file, or a folder with those of its images that were asked for."""

    url: str
    """Absolute local path or fsspec URL."""
    kind: ShardKind
    images: tuple[tuple[str, str], ...] = ()
    """Of a folder: path below it and `Identity.text` of each image, sorted."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is to caption, in the order in which the user gave it."""

    root: str
    """The inputs' common parent: a local folder, a URL, or '' where they have none."""
    sources: tuple[Source, ...]
    selection: Selection = field(default_factory=Selection)
    folders: tuple[str, ...] = ()
    """Those that the user gave: what is not below them any more is gone, also where nothing else is a loose image."""

    def unregistered(self) -> tuple[Shard, ...]:
        """Shards to read and not to write: they are called by their URL, and a folder is one."""
        return tuple(
            Shard(
                public_url(source.url),
                source.url,
                source.kind,
                tuple(ImageFile(path, path, path, version) for path, version in source.images),
            )
            for source in self.sources
        )
