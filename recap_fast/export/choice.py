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
from recap_fast.write.caption_lists import labelled
from recap_fast.write.captions import count_words
from recap_fast.write.flags import flags_of
from recap_fast.write.rows import SCORES

COLUMNS = ("shard", "index", "key", "re_caption", "org_caption", "status", "flags", "uid", "sha256")
"""What a choice looks at, and `LIST` if it is to take one of several captions."""
LIST = "captions"
"""The column with all captions of a row, where it has several."""
OTHER_PROMPT = "caption of another prompt"
"""Why a row is left out that has captions, and none of the prompt that was asked for."""
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
    """The flag for which the row is left out, or `OTHER_PROMPT`; None: it is exported."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an export makes of each row."""

    skip: Sequence[str] = ()
    mix_p: float | None = None
    seed: int = 0
    sub_caption: Sentence | None = None
    caption: str | None = None
    """The label of the caption to take of each row, see `write/caption_lists.py`; None: the first."""

    @classmethod
    def of(cls, config: ExportConfig) -> "Choice":
        """The choice that the options ask for."""
        return cls(config.skip, config.mix_p, config.seed, config.sub_caption, config.caption)

    @property
    def columns(self) -> tuple[str, ...]:
        """The `COLUMNS` that this choice needs: rows are read faster without the others."""
        draws = self.mix_p is not None or self.sub_caption == "random"
        sample = ("shard", "uid", "sha256") if draws else ()
        captions = () if self.caption is None else (LIST,)
        return ("index", "key", "re_caption", "org_caption", *sample, *(("flags",) if self.skip else ()), *captions)

    def choose(self, row: Mapping[str, Any]) -> Chosen:
        """`row` has at least `columns`. Where it has another caption than its first, so has the row that is chosen, and
        what it says of its caption is of that one."""
        if self.caption is not None and row[LIST] is not None:
            captions = labelled(row[LIST])
            if self.caption not in captions:
                return Chosen(row, None, None, OTHER_PROMPT)
            if self.caption != next(iter(captions)):
                row = _with_caption(row, captions[self.caption])
        recaption = self._sentence_of(row["re_caption"], row)
        caption = recaption
        if self.mix_p is not None:
            original = _text(row["org_caption"])
            takes_original = draw(self.seed, "mix", row) < self.mix_p
            caption = (original or recaption) if takes_original else (recaption or original)
        return Chosen(row, recaption, caption, self._skipped(row))

    def recaptions(self, row: Mapping[str, Any]) -> list[str | None]:
        """All new captions of a chosen row with `captions`, as `choose` gives one; that one, if one was asked for."""
        if self.caption is not None or not row[LIST]:
            return [self._sentence_of(row["re_caption"], row)]
        return [self._sentence_of(each["text"], row) for each in row[LIST]]

    def _skipped(self, row: Mapping[str, Any]) -> str | None:
        if not self.skip:
            return None
        flags = row["flags"] or ()
        if FAILED in self.skip and _text(row["re_caption"]) is None:
            return FAILED
        return next((flag for flag in self.skip if flag in flags), None)

    def _sentence_of(self, caption: str | None, row: Mapping[str, Any]) -> str | None:
        """What is written of a new caption; None where it is as good as none."""
        caption = _text(caption)
        if caption is None or self.sub_caption is None:
            return caption
        found = sentences(caption)
        if self.sub_caption == "first":
            return found[0]
        return found[int(draw(self.seed, "sentence", row) * len(found))]


_OF_IMAGE = "flat_color", "placeholder"


def _with_caption(row: Mapping[str, Any], caption: Mapping[str, Any]) -> dict[str, Any]:
    """The row with another of its captions in the place of the first. It has no score, and whether other images have
    the same caption is not known."""
    text, reason = caption["text"], caption["finish_reason"]
    of_caption = {
        "re_caption": text,
        "re_length": count_words(text),
        "finish_reason": reason,
        "num_tokens": caption["num_tokens"],
        **dict.fromkeys(names[0] for names in SCORES.values()),
    }
    if "flags" in row:
        of_image = [flag for flag in row["flags"] or () if flag in _OF_IMAGE]
        of_caption["flags"] = flags_of(caption["prompt"]).find(text, reason) + of_image
    return {**row, **{name: value for name, value in of_caption.items() if name in row}}


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
