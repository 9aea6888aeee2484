"""recap-fast: shards of images in, Parquet captions out."""

__version__ = "0.1.0"
