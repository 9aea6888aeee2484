"""Defaults that the command line, the Python API and the stages share; importing this file loads nothing."""

MAX_FIELD_TOKENS = 128
"""Longest field of a prompt, such as {org_caption}, in tokens; longer ones are cut."""
MAX_IMAGE_PIXELS = 250_000_000
"""Larger images are refused: decoding one may take 3 GB and some ten seconds."""
EXPORT_FOLDER = ".recap-fast"
"""The hidden folder, perhaps among the images, in which `export` keeps a record of its files."""
