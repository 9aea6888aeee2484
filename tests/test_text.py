from hypothesis import given
from hypothesis import strategies as st

from recap_fast.text import cut, message_of, num_bytes, unicode

ANY = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud800\udfff\U0001f600é"), max_size=40)


@given(ANY)
def test_only_lone_surrogates_are_changed(text):
    written = "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert unicode(text) == written
    assert num_bytes(unicode(text)) == len(written.encode())


@given(ANY.map(unicode), st.integers(0, 60))
def test_a_cut_text_has_as_many_whole_characters_as_fit(text, max_bytes):
    longest = max(n for n in range(len(text) + 1) if len(text[:n].encode()) <= max_bytes)
    assert cut(text, max_bytes) == text[:longest]


def test_the_message_of_an_error_is_one_line():
    assert message_of(ValueError("a\n b.\n")) == "a b."
    assert message_of(ValueError(" \n")) == "ValueError"
