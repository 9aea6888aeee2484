"""The column `captions`: all captions of an image, where a run makes several or draws the prompt for each image.

Its elements are in the order of the run's prompts, the captions of one prompt side by side. The first is the one that
`re_caption`, `finish_reason`, `num_tokens` and `flags` tell of. Where a run has one prompt and makes one caption an
image, the column is null, as it is in rows without a caption.

A label tells the captions of a row apart: the name of the prompt, and where it made several captions, the number of the
second one and of those behind it: 'short', 'short:2'.
"""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from recap_fast.records import OK

if TYPE_CHECKING:
    import pyarrow as pa


def labelled(captions: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """The captions of a row by their labels, in order; none where the column is null."""
    names: Counter[str] = Counter()
    found = {}
    for each in captions or ():
        names[name := str(each["name"])] += 1
        found[_label(name, names[name])] = each
    return found


def texts_by_label(captions: Sequence[Mapping[str, Any]] | None) -> dict[str, str | None] | None:
    """The texts of a row's captions by their labels; None where the column is null."""
    return None if captions is None else {label: each["text"] for label, each in labelled(captions).items()}


def _label(name: str, number: int) -> str:
    return name if number == 1 else f"{name}:{number}"


def count_tokens(rows: "pa.RecordBatch") -> int:
    """The tokens of all captions."""
    import pyarrow.compute as pc

    single = pc.sum(rows["num_tokens"].filter(pc.is_null(rows["captions"]))).as_py() or 0
    return single + (pc.sum(pc.struct_field(pc.list_flatten(rows["captions"]), "num_tokens")).as_py() or 0)


@dataclass(frozen=True, slots=True)
class CaptionLists:
    """The captions that the rows of a run have."""

    prompts: tuple[Mapping[str, str], ...] = ()
    """For each caption the questions that may be its own, by name: several where one is drawn. Empty where the column
    is null."""
    num_captions: int = 1
    """So many captions in a row are of one prompt."""

    @classmethod
    def of(cls, fingerprint: Mapping[str, Any]) -> Self:
        """Those of the run with this fingerprint; see `launch/config.py`. Raises ValueError for what no run wrote."""
        num, asked, lists = fingerprint.get("num_captions", 1), fingerprint.get("prompts", []), []
        for entry in asked if isinstance(asked, list) else [None]:
            prompts = entry.get("prompts") if isinstance(entry, dict) else None
            if not isinstance(prompts, dict) or not prompts or not all(isinstance(q, str) for q in prompts.values()):
                raise ValueError("its prompts are not as a run writes them")
            lists.append(prompts)
        if type(num) is not int or num < 1:
            raise ValueError("its num_captions is no count")
        return cls(tuple(prompts for prompts in lists for _ in range(num)), num)

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that captions of a row may have, in order."""
        places = enumerate(self.prompts)
        return tuple(_label(name, place % self.num_captions + 1) for place, names in places for name in names)

    @property
    def columns(self) -> tuple[str, ...]:
        """What `fault` looks at, besides 'index' and 'status'."""
        return ("captions", *(("re_caption", "finish_reason", "num_tokens") if self.prompts else ()))

    def fault(self, rows: "pa.RecordBatch") -> str:
        """What is wrong with the captions of the first row that has others than the run makes; '' if none has."""
        wrong = self._wrong(rows)
        if not wrong.any():
            return ""
        place = int(np.flatnonzero(wrong)[0])
        index, captions = rows["index"][place].as_py(), rows["captions"][place].as_py()
        if not self.prompts or rows["status"][place].as_py() != OK:
            return f"has a list of captions in the row with index {index}, which cannot have one"
        there = [str(each and each["name"]) for each in captions or ()]
        wrong_ones = f"has captions that are not as a run writes them in the row with index {index}: "
        drawn = [name for name in there[:: self.num_captions] for _ in range(self.num_captions)]
        if there == drawn and len(there) == len(self.prompts) and all(map(operator.contains, self.prompts, there)):
            return f"{wrong_ones}one has another prompt or lacks a value, or the first is not re_caption"
        wanted = ", ".join(" or ".join(names) for names in self.prompts)
        return f"{wrong_ones}they are of {', '.join(there) or 'none'}, and the run makes those of {wanted}"

    def _wrong(self, rows: "pa.RecordBatch") -> NDArray[np.bool_]:
        """Of each row, whether its captions are not as the run makes them."""
        import pyarrow.compute as pc

        captions, is_ok = rows["captions"], _array(pc.equal(rows["status"], OK))
        has_list = _array(pc.is_valid(captions))
        if not self.prompts:
            return has_list
        lengths = _array(pc.fill_null(pc.list_value_length(captions), 0))
        whole = has_list & (lengths == len(self.prompts))
        wrong: NDArray[np.bool_] = np.where(is_ok, ~whole, has_list)
        listed = rows.filter(_mask(whole))
        wrong[whole] |= self._differing(listed)
        return wrong

    def _differing(self, rows: "pa.RecordBatch") -> NDArray[np.bool_]:
        """Of each row that has as many captions as it should, whether they are others."""
        import pyarrow.compute as pc

        flat, num = pc.list_flatten(rows["captions"]), len(self.prompts)
        names, questions, texts, reasons, counts = (pc.struct_field(flat, i) for i in range(5))
        differing = np.zeros(rows.num_rows, bool)
        for i, prompts in enumerate(self.prompts):
            places = _mask(np.arange(len(flat)) % num == i)
            name, question = names.filter(places), questions.filter(places)
            fits = [pc.and_(pc.equal(name, key), pc.equal(question, text)) for key, text in prompts.items()]
            matches = np.any([_array(pc.fill_null(fit, fill_value=False)) for fit in fits], axis=0)
            differing |= ~matches
            for values in (texts, reasons, counts):
                differing |= _array(pc.is_null(values.filter(places)))
            if i % self.num_captions:  # another one of the same prompt
                before = names.filter(_mask(np.arange(len(flat)) % num == i - 1))
                differing |= ~_array(pc.fill_null(pc.equal(name, before), fill_value=False))
        first = _mask(np.arange(len(flat)) % num == 0)
        for column, values in (("re_caption", texts), ("finish_reason", reasons), ("num_tokens", counts)):
            same = pc.equal(rows[column], values.filter(first))
            differing |= ~_array(pc.fill_null(same, fill_value=False))
        return differing


def _array(values: Any) -> NDArray[Any]:
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


def _mask(values: NDArray[np.bool_]) -> "pa.Array":
    import pyarrow as pa

    return pa.array(values)
