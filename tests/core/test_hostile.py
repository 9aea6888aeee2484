"""No argument of anything in _core ends the process: what does not fit raises."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from support import built, hostile  # noqa: F401 - before the modules that it may replace
from support.hostile import OBJECTS, Case

from recap_fast.arrow_core import core

SCHEMA = pa.schema([("text", pa.string()), ("n", pa.int64())])
BATCH = pa.record_batch([["a", "b"], [1, 2]], schema=SCHEMA)
LIMITS = ("max_row_group_rows", "max_row_group_bytes")
BYTES = [bytes([byte]) for byte in range(256)]


def exported(value: object) -> object:
    """What gives this for a schema and for a batch."""
    return SimpleNamespace(__arrow_c_schema__=lambda: value, __arrow_c_array__=lambda: value)


def released_schema() -> object:
    """Its struct was taken over by somebody else."""
    capsule = SCHEMA.__arrow_c_schema__()
    pa.Schema._import_from_c_capsule(capsule)
    return exported(capsule)


def released_batch() -> object:
    capsules = BATCH.__arrow_c_array__()
    pa.RecordBatch._import_from_c_capsule(*capsules)
    return exported(capsules)


def wild_batch() -> pa.RecordBatch:
    """Its offsets lead far out of the text."""
    offsets = pa.py_buffer(np.array([0, 2**30, 2], np.int32))
    return pa.record_batch([pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ab")), [1, 2]], schema=SCHEMA)


def misaligned(values: list[int]) -> np.ndarray:
    return np.frombuffer(b"x" + np.array(values, np.int32).tobytes(), np.int32, offset=1)


ROW = {**OBJECTS, "int64 array": np.array([1]), "matrix": np.zeros((2, 2), np.int32), "floats": np.array([0.5])}
ROW |= {"strings": ["a", "b"], "objects": np.array([None]), "nested": [[1, 2], [3]], "scalar": np.int32(1)}
ROWS = {**OBJECTS, **{f"of {label}": [value] for label, value in ROW.items()}}
BATCHES: dict[str, Callable[[], Any]] = {
    "another schema": lambda: pa.record_batch({"n": [1]}),
    "a schema": lambda: SCHEMA,
    "a column": lambda: pa.array([1, 2]),
    "a table": lambda: pa.table({"n": [1]}),
    "structs with a null": lambda: pa.array([{"text": "a", "n": 1}, None], pa.struct(list(SCHEMA))),
    "released": released_batch,
    "wild offsets": wild_batch,
    "a number": lambda: exported(5),
    "no capsules": lambda: exported(()),
    "one capsule": lambda: exported((SCHEMA.__arrow_c_schema__(),)),
    "schemas": lambda: exported((SCHEMA.__arrow_c_schema__(), SCHEMA.__arrow_c_schema__())),
    "turned around": lambda: exported(BATCH.__arrow_c_array__()[::-1]),
    "numbers": lambda: exported((1, 2)),
}
SCHEMAS = {
    "released": released_schema,
    "a number": lambda: exported(5),
    "a batch": lambda: exported(BATCH.__arrow_c_array__()[1]),
    "unions": lambda: pa.schema([("u", pa.dense_union([pa.field("a", pa.int64())]))]),
}
OTHERS: dict[str, dict[str, Any]] = {
    "tokens": {
        **OBJECTS,
        "no bytes": [],
        "numbers": [5] * 256,
        "twice": [*BYTES, b"a"],
        "few": BYTES[:9],
    },
    "merges": {
        **OBJECTS,
        "pairs": [(1, 2)],
        "negative": [(-1, 98, 256)],
        "beyond": [(97, 98, 2**31 - 1)],
        "huge": [(97, 98, 2**40)],
        "strings": [("a", "b", "c")],
        "other bytes": [(97, 97, 256)],
        "Nones": [None],
    },
    "special": {
        **OBJECTS,
        "negative": {"s": -1},
        "large": {"s": 2**31 - 1},
        "huge": {"s": 2**40},
        "empty": {"": 300},
        "by number": {5: 300},
        "Nones": {"s": None},
        "surrogate": {"\ud800": 300},
    },
    "words": {
        **OBJECTS,
        "negative": {-1: b"a"},
        "large": {2**31 - 1: b"a"},
        "huge": {2**40: b"a"},
        "ordinary": {97: b"a"},
        "by name": {"<s>": b"a"},
        "Nones": {300: None},
    },
    "text": {**OBJECTS, "bytes": b"x", "surrogate": "a\ud800"},
    "data": {**OBJECTS, "bytearray": bytearray(b"\xff\xd8"), "array": np.zeros(4, np.uint8)},
    "rows": {**ROWS, "negative": [np.array([-1], np.int32)], "beyond": [np.array([0, 2**31 - 1], np.int32)]},
    "texts": {**ROWS, "too long": [np.arange(4, dtype=np.int32)], "too many": [np.zeros(1, np.int32)] * 3},
    "path": {**OBJECTS, "NUL": "a\0b", "nowhere": Path("nowhere/a"), "a folder": Path(), "empty": ""},
    "key_value_metadata": {**OBJECTS, "numbers": {1: 2}, "Nones": {"a": None}, "surrogate": {"a": "\ud800"}},
}


def others(argument: str, value: Any) -> Iterator[tuple[str, Any]]:
    if argument in ("schema", "batch"):
        yield from OBJECTS.items()
        yield from ((label, make()) for label, make in (SCHEMAS if argument == "schema" else BATCHES).items())
    elif argument in OTHERS and not isinstance(value, int):
        yield from OTHERS[argument].items()
    elif argument not in ("type", "value", "traceback"):
        yield from hostile.usual(value).items()


def writer(name: str = "a") -> core.ParquetWriter:
    return core.ParquetWriter(Path(name), SCHEMA)


def ended(how: Callable[[core.ParquetWriter], object]) -> core.ParquetWriter:
    made = writer("ended")
    how(made)
    return made


def half_made(kind: type[Any]) -> Any:
    """An object whose __init__ raised."""
    made = kind.__new__(kind)
    with contextlib.suppress(TypeError, ValueError):
        made.__init__("x", [])
    return made


TOKENIZER = core.Tokenizer([*BYTES, b"ab"], [(97, 98, 256)], {"<s>": 300}, True)
TEXTS = [np.array([1, 2], np.int32)]
ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "Tokenizer.__init__": lambda: {
        "tokens": [*BYTES, b"ab"],
        "merges": [(97, 98, 256)],
        "special": {"<s>": 300},
        "ignore_merges": True,
        "words": {300: b"<s>"},
    },
    "Tokenizer.encode": lambda: {"self": TOKENIZER, "text": "abc"},
    "Tokenizer.detokenize": lambda: {"self": TOKENIZER, "rows": TEXTS},
    "Tokenizer.vocab_size": lambda: {"self": TOKENIZER},
    "pack_prompts": lambda: {"texts": TEXTS, "num_image_tokens": 2, "width": 3, "rows": 2},
    "walk_jpeg": lambda: {"data": b"\xff\xd8\xff"},
    "ParquetWriter.__init__": lambda: {
        "path": Path("a"),
        "schema": SCHEMA,
        "max_row_group_rows": 5,
        "max_row_group_bytes": 5,
        "key_value_metadata": {"a": "b"},
    },
    "ParquetWriter.write": lambda: {"self": writer(), "batch": BATCH},
    "ParquetWriter.close": lambda: {"self": writer()},
    "ParquetWriter.abort": lambda: {"self": writer()},
    "ParquetWriter.__enter__": lambda: {"self": writer()},
    "ParquetWriter.__exit__": lambda: {"self": writer(), "type": None, "value": None, "traceback": None},
}


def all_cases() -> Iterator[Case]:
    yield from hostile.cases(core, ARGUMENTS, others)
    for how in (core.ParquetWriter.close, core.ParquetWriter.abort):
        yield Case("ParquetWriter.write", f"after {how.__name__}", lambda how=how: ended(how).write(BATCH))
        yield Case("ParquetWriter.close", f"after {how.__name__}", lambda how=how: ended(how).close())
        yield Case("ParquetWriter.abort", f"after {how.__name__}", lambda how=how: ended(how).abort())
    yield Case("Tokenizer.detokenize", "misaligned", lambda: TOKENIZER.detokenize([misaligned([1, 2])]))
    yield Case("Tokenizer.detokenize", "strided", lambda: TOKENIZER.detokenize([np.arange(9, dtype=np.int32)[::-2]]))
    yield Case("Tokenizer.encode", "after a failed __init__", lambda: half_made(core.Tokenizer).encode("a"))
    yield Case("ParquetWriter.close", "after a failed __init__", lambda: half_made(core.ParquetWriter).close())
    yield Case("Tokenizer.__init__", "again", lambda: TOKENIZER.__init__([], None, {}, False))


ACCEPTED = {
    *{("Tokenizer.__init__", label) for label in ("merges: None", "without words", "again")},  # again changes nothing
    ("Tokenizer.encode", "text: str"),
    *{("Tokenizer.detokenize", label) for label in ("rows: of list", "misaligned", "strided")},
    *{("pack_prompts", label) for label in ("without rows", "rows: None", "texts: of list")},
    *{("ParquetWriter.__init__", f"without {name}") for name in (*LIMITS, "key_value_metadata")},
    *{("ParquetWriter.__init__", label) for label in ("path: str", *(f"{name}: huge" for name in LIMITS))},
    *{(f"ParquetWriter.{name}", "after close") for name in ("close", "abort")},
    ("ParquetWriter.abort", "after abort"),
}
"""What is valid after all, or useless and harmless."""


def test_nothing_hostile_is_accepted_and_nothing_crashes():
    hostile.check(__file__, core, ACCEPTED)


if __name__ == "__main__":
    hostile.run(all_cases())
