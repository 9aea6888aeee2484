"""Which members of a tar are one sample, by their names alone.

A key is a member's path up to the first dot of its base name, as in webdataset; what follows is its extension. Keys may
have dots too: where every extension of a key has dots, as in `22.05.jpg`, `22.05.txt`, `22.06.jpg`, and either one of
the images has a file of its own beside it (`05.txt`) or all begin like numbers and not like names, then what stands
before the image's suffix (`05`) belongs to the key. So `a.json`, `a.left.jpg`, `a.right.jpg` stay one sample.
"""

from collections.abc import Collection

from recap_fast.shards.sample import IMAGE_EXTENSIONS

_IMAGES = frozenset(extension.encode() for extension in IMAGE_EXTENSIONS)
_MAX_DOTS = 8
"""Of an extension, so many parts are looked at."""


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Key and extension of a member. None for hidden files, files without extension and `__*__` ones."""
    while name.startswith((b"./", b"/")):
        name = name[1:] if name.startswith(b"/") else name[2:]
    folder, slash, base = name.rpartition(b"/")
    stem, dot, extension = base.partition(b".")
    if not (stem and dot and extension) or (stem.startswith(b"__") and base.endswith(b"__")):
        return None
    return folder + slash + stem, extension


def kind_of(name: bytes) -> str:
    """What a file that belongs to no image is counted as: '.md', 'without extension', 'hidden'."""
    base = name.rpartition(b"/")[2]
    if base.startswith((b".", b"__")):
        return "hidden"
    dot, suffix = base.rpartition(b".")[1:]
    return f".{suffix[:20].decode('utf-8', 'backslashreplace').lower()}" if dot and suffix else "without extension"


def is_image(extension: bytes) -> bool:
    """Whether the last part of an extension is one of an image."""
    return extension.rpartition(b".")[2].lower() in _IMAGES


def inner_keys(extensions: Collection[bytes]) -> list[bytes] | None:
    """Of each extension of a key the part that belongs to the key; None where the key ends at the first dot."""
    stems = {extension.rpartition(b".")[0] for extension in extensions if is_image(extension)}
    if not stems or not all(b"." in extension for extension in extensions):
        return None
    own = [_own_stem(extension, stems) for extension in extensions]
    numbers = all(extension[:1].isdigit() for extension in extensions)
    if not (numbers or any(stem and not is_image(e) for stem, e in zip(own, extensions, strict=True))):
        return None
    return [stem or e.rpartition(b".")[0] for stem, e in zip(own, extensions, strict=True)]


def _own_stem(extension: bytes, stems: Collection[bytes]) -> bytes | None:
    """The image's name without its suffix that an extension begins with: the longest."""
    if is_image(extension):
        return extension.rpartition(b".")[0]
    return next((stem for stem in _before_dots(extension) if stem in stems), None)


def _before_dots(extension: bytes) -> list[bytes]:
    """What stands before a dot, the longest first."""
    stems = []
    for _ in range(_MAX_DOTS):
        extension, dot, _ = extension.rpartition(b".")
        if not dot:
            break
        stems.append(extension)
    return stems
