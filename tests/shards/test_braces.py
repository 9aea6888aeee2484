import shutil
import subprocess

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recap_fast.errors import ConfigError
from recap_fast.shards import braces
from recap_fast.shards.braces import expand_braces


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{00000..00002}.tar", ["00000.tar", "00001.tar", "00002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{05..100..95}", ["005", "100"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{10..0..-5}", ["10", "5", "0"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("x{a,b{1..2},{c,d}}", ["xa", "xb1", "xb2", "xc", "xd"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
        ("{-01..1}", ["-01", "000", "001"]),
        ("plain", ["plain"]),
        ("{single}.tar", ["{single}.tar"]),
        ("open{0..1", ["open{0..1"]),
        ("}{0..1}", ["}0", "}1"]),
        ("{x{0..1}", ["{x0", "{x1"]),
        ("", [""]),
    ],
)
def test_patterns(pattern, expected):
    assert list(expand_braces(pattern)) == expected


RANGES = st.builds(
    lambda first, distance, step, width: f"{{{first:0{width}d}..{first + distance:0{width}d}..{step}}}",
    *(st.integers(-20, 300), st.integers(-200, 200), st.integers(70, 150), st.integers(0, 6)),
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="compares with bash")
@given(
    st.recursive(
        st.sampled_from(["a", "b0", "{0..2}", "{3..1}", "{x}"]) | RANGES,
        lambda inner: (
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"{{{','.join(parts)}}}")
            | st.tuples(inner, inner).map("".join)
        ),
        max_leaves=6,
    )
)
def test_as_bash(pattern):
    output = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert list(expand_braces(pattern)) == output.stdout.splitlines()


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..99999999999}",
        "{0..10000000}",
        "{10000000..0}",
        "{a,{0..9999999}}",
        "{0..9999}/{0..1000}.tar",
        "{0..9}" * 8,
        "{x,{0..9}{0..9}{0..9}{0..9}}{0..999}",
        f"{{0..{'9' * 200}..2}}",
    ],
)
def test_too_many_names_are_refused_before_any_is_made(pattern, monkeypatch):
    monkeypatch.setattr(braces, "_expand", None)
    with pytest.raises(ConfigError, match=r"stands for over 10,000,000 names: write it with fewer braces"):
        expand_braces(pattern)


def test_what_is_refused_is_shown_without_secrets():
    with pytest.raises(ConfigError, match=r"^'https://host/\{0\.\.99999999999\}\.tar' stands for"):
        expand_braces("https://me:password@host/{0..99999999999}.tar?sig=secret")


def test_ten_million_names_are_fine():
    names = expand_braces("{0..9999999}.tar")
    assert [next(names), next(names)] == ["0.tar", "1.tar"]


@pytest.mark.parametrize("pattern", ["{0..%s}", "{%s..0}.tar", "a{0..3..%s}{a,b}", "{-%s..1}"])
def test_numbers_that_no_name_holds_are_refused(pattern):
    with pytest.raises(ConfigError, match="has a number of over 255 digits") as caught:
        expand_braces(pattern % ("1" + "0" * 5000))
    assert len(str(caught.value)) < 250
    assert len(list(expand_braces(f"{{{'0' * 200}1..{'0' * 200}3}}"))) == 3


@pytest.mark.parametrize("pattern", ["{a,b" * 5000 + "}" * 5000, "{1..1}" * 5000, "{" * 50_000 + "}"])
def test_braces_too_deep_are_refused(pattern):
    with pytest.raises(ConfigError, match="has over 200 braces"):
        expand_braces(pattern)


@given(st.text("{},.0123ab-", max_size=30))
def test_names_are_counted_before_they_are_made(pattern):
    assume(braces._num_names(pattern) < 10_000)
    assert braces._num_names(pattern) == len(list(expand_braces(pattern)))
