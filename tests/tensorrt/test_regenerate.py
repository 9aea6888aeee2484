"""How the table is compared with a package, on imitations of what the real one is made of."""

import dataclasses
import inspect
from typing import Any

import pytest
from trtllm_fake.contract import EMPTY, Contract, make_signature
from trtllm_fake.package import Fake
from trtllm_fake.regenerate import compare, compare_parameters, differences, nanobind_signatures, real_fields

AWAIT = """await_responses(*args, **kwargs)
Overloaded function.

1. ``await_responses(self, timeout: datetime.timedelta | None = None) -> list[tensorrt_llm.bindings.executor.Response]``

2. ``await_responses(self, id: int, timeout: datetime.timedelta | None = None) -> list[Response]``
"""
INIT = (
    "__init__(self, input_token_ids: collections.abc.Sequence[int], max_tokens: int, *, streaming: bool = False, "
    "sampling_config: tensorrt_llm.bindings.executor.SamplingConfig = <SamplingConfig object at 0x7f>, "
    "bad: list[dict[str, int]] | None = None, top_p: float = 1.0) -> None"
)


def test_nanobind_docstrings_are_read() -> None:
    assert nanobind_signatures(AWAIT) == [{"timeout": None}, {"id": EMPTY, "timeout": None}]
    (signature,) = nanobind_signatures(INIT)
    assert list(signature) == ["input_token_ids", "max_tokens", "streaming", "sampling_config", "bad", "top_p"]
    assert (signature["max_tokens"], signature["streaming"], signature["bad"]) == (EMPTY, False, None)
    assert signature["top_p"] == 1.0
    assert nanobind_signatures("no signature") == []


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        ({"a": EMPTY, "b": 1}, []),
        ({"a": EMPTY, "b": 1, "more": None}, []),
        ({"a": EMPTY}, ["has no parameter b"]),
        ({"a": EMPTY, "**": None}, []),
        ({"a": EMPTY, "b": 2}, ["b has the default 2, not 1"]),
        ({"a": 0, "b": 1}, ["a has the default 0, not 'required'"]),
        ({"a": EMPTY, "b": 1, "c": EMPTY}, ["requires c"]),
    ],
)
def test_parameters_are_compared(real: dict[str, Any], expected: list[str]) -> None:
    assert compare_parameters(real, {"a": EMPTY, "b": 1}) == expected


def test_fields_of_dataclasses_and_models_are_read() -> None:
    @dataclasses.dataclass
    class Data:
        a: int
        b: int = 2
        c: list[int] = dataclasses.field(default_factory=list)

    assert real_fields(Data) == {"a": EMPTY, "b": 2, "c": list}
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    model = pydantic.create_model("Model", a=(int, ...), b=(int, 2), c=(list, pydantic.Field(default_factory=list)))
    assert real_fields(model) == {"a": EMPTY, "b": 2, "c": list}


def test_a_function_that_differs_is_found() -> None:
    entry = {"kind": "function", "params": [["model", "REQ"], ["build_config", "REQ"]]}

    def right(model: Any, build_config: Any, more: int = 0) -> None: ...

    def wrong(model: Any, config: Any) -> None: ...

    assert compare(right, "x", entry, Contract()) == []
    assert compare(wrong, "x", entry, Contract()) == ["has no parameter build_config", "requires config"]
    assert str(make_signature(entry)) == "(model, build_config)"


def test_a_class_that_differs_is_found() -> None:
    class Config:
        def __init__(self, a: int = 1) -> None:
            self.a = a

        def stop(self, id: int) -> None: ...

    entry = {"kind": "class", "params": [["a", 1]], "read": ["a"], "methods": {"stop": {"params": [["id", "REQ"]]}}}
    assert compare(Config, "x", entry, Contract()) == []
    other = {**entry, "read": ["b"], "methods": {"stop": {"params": []}, "start": {"params": []}}}
    assert compare(Config, "x", other, Contract()) == [
        "stop: requires id",
        "has no method start",
        "has no attribute b",
    ]


def test_other_kinds_that_differ_are_found() -> None:
    contract = Contract()
    assert compare(inspect, "x", {"kind": "enum", "members": ["signature", "nothing"]}, contract) == [
        "has no member nothing"
    ]
    assert compare("1.2.0", "x", {"kind": "value", "value": "1.2.1"}, contract) == ["is '1.2.0', not '1.2.1'"]
    assert compare(ValueError, "x", {"kind": "exception"}, contract) == ["is no RuntimeError"]


def test_names_that_are_missing_are_found(fake: Fake) -> None:
    table = {"kind": "class", "tag": "mem"}
    symbols = {"tensorrt_llm.builder.Nothing": table, "tensorrt_llm.nowhere.Nothing": table}
    symbols["tensorrt_llm.BuildConfig"] = {"kind": "alias", "of": "tensorrt_llm.builder.Engine", "tag": "mem"}
    found = differences(Contract(table={"version": "1.2.1", "symbols": symbols}))
    assert [text.partition(": ")[0] for text in found] == [*symbols]
    assert found[2].endswith("is not tensorrt_llm.builder.Engine")
