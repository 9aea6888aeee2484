"""The version of recap-fast."""

__version__ = "0.1.0"
