"""Text that any column of the output can hold, valid Unicode of bounded length; and numbers of things."""

import re
from collections import Counter
from collections.abc import Mapping

MAX_TEXT_BYTES = 16 << 20
"""Of one text in UTF-8. Larger texts are not read, and none is written: one must not take the memory of a whole run."""
SENTENCE_END = re.compile(r"(?:[.!?](?=[\"'”’»)\]*_]*(?:\s|$))|[。！？])[\"'”’»」』)\]*_]*")  # noqa: RUF001 - they are meant
"""The end of a sentence: its mark, and the quotes and brackets that close behind it."""


def unicode(text: str) -> str:
    """The text with lone surrogates, which UTF-8 and so Parquet cannot hold, written as backslash escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def num_bytes(text: str) -> int:
    """The length in UTF-8, of text as `unicode` writes it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "backslashreplace"))


def cut(text: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """As many whole characters of valid Unicode, from its start, as fit into so many bytes of UTF-8."""
    return text if num_bytes(text) <= max_bytes else text[:max_bytes].encode()[:max_bytes].decode("utf-8", "ignore")


def message_of(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def counted(number: int, noun: str) -> str:
    """A number of things, for people: '1 shard', '1,000 shards'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def sized(num_bytes: int) -> str:
    """An amount of memory, for people: '15.5 GiB', '52 MiB'."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / 2**20:.0f} MiB"


def show_left_out(left_out: Mapping[str, int]) -> str:
    """'files that belong to no image: 5 (.md 3, .csv 2); further images of a sample: 2'."""
    totals: Counter[str] = Counter()
    kinds: dict[str, list[str]] = {}
    for reason, count in sorted(left_out.items(), key=lambda item: -item[1]):
        what, _, kind = reason.removesuffix(")").partition(" (")
        totals[what] += count
        if kind:
            kinds.setdefault(what, []).append(f"{kind} {count:,}")
    shown = ((f"{what}: {total:,}", ", ".join(kinds.get(what, []))) for what, total in totals.most_common())
    return "; ".join(f"{text} ({listed})" if listed else text for text, listed in shown)
