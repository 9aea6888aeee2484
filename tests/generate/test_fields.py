import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Count, Range, Source, read_table, shown


@dataclass(frozen=True)
class Inner:
    width: Count
    share: Annotated[float, Range(0.0, 1.0)] = 0.5


@dataclass(frozen=True)
class Table:
    name: str
    inner: Inner
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    ids: tuple[int, ...] = ()
    three: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ratio: Annotated[float, Range(0.0, above=True)] | None = None
    parts: dict[str, Inner] = field(default_factory=dict)
    anything: Any = None


SOURCE = Source(Path("a.json"), "Do it again.")
WHOLE = {"name": "n", "inner": {"width": 3}}


def test_what_is_given_is_read_and_the_rest_has_its_default():
    content = {
        **WHOLE,
        "kind": "b",
        "flag": True,
        "ids": [1, 2],
        "three": [1, 2, 3],
        "ratio": 2,
        "parts": {"x": {"width": 1}},
    }
    expected = Table("n", Inner(3), "b", True, (1, 2), (1.0, 2.0, 3.0), 2.0, {"x": Inner(1)})
    found = read_table(SOURCE, Table, content)
    assert found == expected
    assert type(found.ratio) is float
    assert read_table(SOURCE, Table, WHOLE) == Table("n", Inner(3))
    assert read_table(SOURCE, Table, {**WHOLE, "ratio": None, "anything": [{}]}).anything == [{}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": 1}, r"a.json has an unknown key 'nam' (did you mean 'name'?). Known keys: name, inner"),
        ({"inner": {}}, "a.json: 'inner.width' is missing. Do it again."),
        ({"inner": []}, "a.json: 'inner' must be a table, not []. Do it again."),
        ({"inner": {"width": 0}}, "a.json: 'inner.width' must be an integer of at least 1, not 0."),
        ({"inner": {"width": True}}, "'inner.width' must be an integer of at least 1, not True."),
        ({"inner": {"width": 1.0}}, "'inner.width' must be an integer of at least 1, not 1.0."),
        ({"inner": {"width": 1, "share": 2}}, "'inner.share' must be a number from 0.0 to 1.0, not 2."),
        ({"inner": {"width": 1, "share": float("nan")}}, "'inner.share' must be a number from 0.0 to 1.0, not nan."),
        ({"ratio": 0}, "'ratio' must be a number above 0, not 0."),
        ({"ratio": 10**400}, "'ratio' must be a number that fits 64 bits, not 1000"),
        ({"kind": "c"}, "'kind' must be one of a, b, not 'c'."),
        ({"kind": ["a"]}, "'kind' must be one of a, b, not ['a']."),
        ({"flag": 1}, "'flag' must be true or false, not 1."),
        ({"ids": 3}, "'ids' must be a list of integers, not 3."),
        ({"ids": [1, "x"]}, "'ids' must be a list of integers, not [1, 'x']."),
        ({"three": [1, 2]}, "'three' must be a list of 3 numbers, not [1, 2]."),
        ({"parts": {"x": 1}}, "'parts.x' must be a table, not 1."),
        ({"parts": {"x": {"width": -1}}}, "'parts.x.width' must be an integer of at least 1, not -1."),
        ({"name": ""}, "'name' is empty."),
        ({"name": "\ud800"}, "'name' must be text without halves of surrogate pairs, not '\\ud800'."),
        ({"name": "z" * 10**6}, None),
        ({"name": ["z" * 10**6] * 100}, "'name' must be a string, not ['zzz"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    content = {**WHOLE, **change}
    if message is None:
        assert read_table(SOURCE, Table, content).name == change["name"]
        return
    with pytest.raises(ConfigError) as refused:
        read_table(SOURCE, Table, content)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_file_of_others_keys_may_be_read():
    source = Source(Path("config.json"), passes_unknown=True)
    assert read_table(source, Table, {**WHOLE, "theirs": 1, "inner": {"width": 1, "more": {}}}) == Table("n", Inner(1))
    with pytest.raises(ConfigError, match=r"^config.json holds no table\.$"):
        read_table(source, Table, [])


@given(
    content=st.dictionaries(
        st.sampled_from(["name", "inner", "kind", "flag", "ids", "three", "ratio", "parts", "anything", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["width", "share"]) | st.text(), inner),
            max_leaves=8,
        ),
    )
)
def test_anything_is_read_or_refused(content):
    try:
        found = read_table(SOURCE, Table, content)
    except ConfigError:
        return
    assert found.inner.width >= 1
    assert 0 <= found.inner.share <= 1
    assert found.kind in ("a", "b")


def test_deep_and_long_values_are_shown_short():
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, json.loads("[" * 500 + "]" * 500), "z" * 10**6, {str(i): i for i in range(1000)}, [0] * 10**6):
        assert len(shown(value)) < 300
    assert shown(2**20000) == "a number of 20001 bits"
