"""Defaults that the command line, the Python API and the stages share; importing this file loads nothing."""

MAX_FIELD_TOKENS = 128
"""Longest field of a prompt, such as {org_caption}, in tokens; longer ones are cut."""
MAX_IMAGE_PIXELS = 178_956_970 // 2
"""Larger images are refused; Pillow calls them decompression bombs. 89 million pixels are 268 MB of RGB."""
