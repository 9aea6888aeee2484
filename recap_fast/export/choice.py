"""Which rows are exported, and with which caption: rows of an output go in, chosen ones come out.

What is drawn depends on nothing but the seed and the sample, so it is the same in every export, in any order, on any
machine. A sample is known by its uid, else by its sha256, else by shard and index.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recap_fast.export.config import FAILED, ExportConfig, Sentence

COLUMNS = ("shard", "index", "key", "re_caption", "org_caption", "status", "flags", "uid", "sha256")
"""What a choice looks at."""
_SENTENCE_END = re.compile(r"""(?<=[.!?])["')\]]*\s+""")


class Chosen(NamedTuple):
    """A row and what an export writes of it."""

    row: Mapping[str, Any]
    """Its columns: `COLUMNS`, and those that were asked for."""
    recaption: str | None
    """The new caption, or one sentence of it if that was asked for; None where there is none."""
    caption: str | None
    """The caption to write where only one is: the new one, or the one that was drawn."""
    skipped: str | None
    """The flag for which the row is left out; None: it is exported."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an export makes of each row."""

    skip: Sequence[str] = ()
    mix_p: float | None = None
    seed: int = 0
    sub_caption: Sentence | None = None

    @classmethod
    def of(cls, config: ExportConfig) -> "Choice":
        """The choice that the options ask for."""
        return cls(config.skip, config.mix_p, config.seed, config.sub_caption)

    @property
    def columns(self) -> tuple[str, ...]:
        """The `COLUMNS` that this choice needs: rows are read faster without the others."""
        draws = self.mix_p is not None or self.sub_caption == "random"
        sample = ("shard", "uid", "sha256") if draws else ()
        return ("index", "key", "re_caption", "org_caption", *sample, *(("flags",) if self.skip else ()))

    def choose(self, row: Mapping[str, Any]) -> Chosen:
        """`row` has at least `columns`."""
        recaption = _text(row["re_caption"])
        if recaption is not None and self.sub_caption is not None:
            recaption = self._sentence(recaption, row)
        caption = recaption
        if self.mix_p is not None:
            original = _text(row["org_caption"])
            takes_original = draw(self.seed, "mix", row) < self.mix_p
            caption = (original or recaption) if takes_original else (recaption or original)
        return Chosen(row, recaption, caption, self._skipped(row))

    def _skipped(self, row: Mapping[str, Any]) -> str | None:
        if not self.skip:
            return None
        flags = row["flags"] or ()
        if FAILED in self.skip and _text(row["re_caption"]) is None:
            return FAILED
        return next((flag for flag in self.skip if flag in flags), None)

    def _sentence(self, caption: str, row: Mapping[str, Any]) -> str:
        found = sentences(caption)
        if self.sub_caption == "first":
            return found[0]
        return found[int(draw(self.seed, "sentence", row) * len(found))]


def _text(caption: str | None) -> str | None:
    """None for one without any letter or sign: it is as good as none."""
    return caption if caption and not caption.isspace() else None


def sentences(caption: str) -> list[str]:
    """The sentences of a caption, at least one: it is split behind each '.', '!' or '?' that a space follows.

    OpenVision splits at every '.' and '!' (UCSC-VLAA/OpenVision, src/transforms/bert_ops.py); so '3.5 m' would be two.
    """
    return [text for text in _SENTENCE_END.split(caption.strip()) if text] or [caption]


def draw(seed: int, purpose: str, row: Mapping[str, Any]) -> float:
    """A number from 0 to below 1: the first 53 bits of the SHA-256 of 'SEED PURPOSE SAMPLE', divided by 2^53.

    SAMPLE is 'uid:UID', else 'sha256:SHA256', else 'row:SHARD:INDEX'.
    """
    if row["uid"]:
        sample = f"uid:{row['uid']}"
    elif row["sha256"]:
        sample = f"sha256:{row['sha256']}"
    else:
        sample = f"row:{row['shard']}:{row['index']}"
    digest = hashlib.sha256(f"{seed} {purpose} {sample}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
