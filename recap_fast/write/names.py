"""Names of outputs: the input's path, in characters that every reader of Parquet folders takes.

`datasets` ignores files whose path has a part that begins with '.' or '__', pyarrow and Spark those with '_'. Both read
'::' and '$NAME' in a path as something else, and '=' as a partition. The run file has the original.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from recap_fast.text import unicode

MAX_PART_BYTES = 200
"""Most bytes of a part. File systems allow 255, and suffixes and temporary names are added."""
_OTHER = re.compile(r"[^\w\-.,+@()~ ]|\.(?=(?:parquet|json)$)", re.IGNORECASE)
"""What is replaced. The last alternative: a folder 'x.parquet' may be in the way of an output, or be taken for one."""


def safe_name(path: str) -> str:
    """The path, with everything replaced that some reader would ignore or misread."""
    return "/".join(_safe_part(part) for part in path.split("/"))


def unused(name: str, used: Collection[str], spelled: Callable[[str], str] = str) -> str:
    """The name or, if it is used already, the first of `name-2`, `name-3`, ... that is not.

    `used` has the names as `spelled` spells them.
    """
    number, found = 1, name
    while spelled(found) in used:
        number += 1
        found = f"{name}-{number}"
    return found


def folded(name: str) -> str:
    """A form that is the same for all names that are one file on some disk: any case, accents composed or not."""
    return unicodedata.normalize("NFC", name.casefold())


def some(names: Sequence[str]) -> str:
    """'a.jpg, b.jpg, c.jpg and 5 more', on one line that any terminal can show."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(name if name.isprintable() else repr(name)[1:-1] for name in names[:3]) + more


def _safe_part(part: str) -> str:
    text = _OTHER.sub("-", unicode(part)).lstrip("._~ ").rstrip() or "-"
    content = text.encode()
    if len(content) <= MAX_PART_BYTES:
        return text
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{content[: MAX_PART_BYTES - 13].decode(errors='ignore')}-{digest}"
