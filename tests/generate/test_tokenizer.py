import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from inputs import vocabularies
from recap_fast.errors import ConfigError
from recap_fast.generate.tokenizer import ByteLevelTokenizer, LibraryTokenizer, load_tokenizer

LOOK_ALIKES = "<image> <|eot_id|> </s> <s> <pad> <unk> <0x41> [INST] <|begin_of_text|>"
TEXTS = st.text() | st.lists(st.sampled_from([*LOOK_ALIKES.split(), "  ", "\n", "image", "日本", "🙂", "é"])).map(
    "".join
)


@pytest.fixture(scope="module", params=["byte_level", "tiktoken", "llama2"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind)
    return load_tokenizer(folder) if vocabularies.write_tokenizer(folder, kind) else None


def reference(content: str) -> tokenizers.Tokenizer:
    """The library without special tokens: what is left of the text is all ordinary."""
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(content), "added_tokens": []}))


def test_byte_level_vocabularies_run_in_cpp_and_others_in_the_library(kind, loaded):
    assert isinstance(loaded, LibraryTokenizer if kind == "llama2" else ByteLevelTokenizer)


@given(text=TEXTS)
def test_ids_equal_those_of_the_library(kind, loaded, text):
    content = vocabularies.train_llama2() if kind == "llama2" else vocabularies.train_byte_level()
    ids = loaded.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == reference(content).encode(text).ids


@given(text=TEXTS)
def test_text_comes_back(kind, loaded, text):
    (back,) = loaded.detokenize([loaded.encode(text)])
    # SentencePiece writes a space as U+2581 and cannot tell the two apart
    assert back == (text.replace("▁", " ") if kind == "llama2" else text)


@given(text=TEXTS, limit=st.integers(0, 12))
def test_cut_keeps_the_first_tokens_in_whole_characters(kind, loaded, text, limit):
    cut, count = loaded.cut(text, limit)
    ids = loaded.encode(text, continues=True)
    assert count == len(ids)
    assert text.startswith(cut)
    (shown,) = loaded.detokenize([ids[:limit]])
    if count <= limit:
        assert cut == text
    elif kind != "llama2":
        assert shown in (cut, cut + "\N{REPLACEMENT CHARACTER}")  # the latter where a character has lost its end
    elif "\N{REPLACEMENT CHARACTER}" not in shown:  # this library replaces the whole run of bytes before it, too
        assert shown == cut.replace("▁", " ")


def test_look_alikes_of_special_tokens_are_text(loaded):
    ids = set(loaded.encode(LOOK_ALIKES).tolist())
    special = {loaded.special.get(token) for token in LOOK_ALIKES.split()} - {None}
    assert special
    assert not ids & special
    assert loaded.detokenize([loaded.encode(LOOK_ALIKES)]) == [LOOK_ALIKES]


def test_special_tokens_are_known_by_name_and_left_out_of_captions(kind, loaded):
    name = "</s>" if kind == "llama2" else "<|eot_id|>"
    stop = loaded.special.get(name)
    rows = [np.array([*loaded.encode("red circle"), stop], np.int32), np.array([], np.int32)]
    assert loaded.detokenize(rows) == ["red circle", ""]
    assert loaded.special.get("red") is None
    assert loaded.vocab_size > stop


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Our tokenizer of a vocabulary like Qwen2's, and transformers'."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("qwen")
    vocabularies.write_tokenizer(folder, "qwen")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


DECOMPOSED = st.text(st.sampled_from("e\u0301o\u0308A\u030a\uac00\u1100\u1161 1234567'll\n\r\t\u65e5\U0001f600"))


@given(text=TEXTS.filter(lambda text: "<" not in text) | DECOMPOSED)
def test_qwen_ids_equal_those_of_transformers(qwen, text):
    """In normal form C, which comes back; each digit is a word."""
    tokenizer, theirs = qwen
    assert isinstance(tokenizer, LibraryTokenizer)
    ids = tokenizer.encode(text)
    assert ids.tolist() == tokenizer.encode(text, continues=True).tolist() == theirs(text)["input_ids"]
    assert tokenizer.detokenize([ids]) == [unicodedata.normalize("NFC", text)]


@given(text=TEXTS | DECOMPOSED, limit=st.integers(0, 12))
def test_qwen_cut_keeps_the_first_tokens_in_whole_characters(qwen, text, limit):
    tokenizer, _ = qwen
    cut, count = tokenizer.cut(text, limit)
    ids = tokenizer.encode(text)
    assert count == len(ids)
    assert text.startswith(cut)
    (shown,) = tokenizer.detokenize([ids[:limit]])
    if count <= limit:
        assert cut == text
    else:
        whole = unicodedata.normalize("NFC", cut)
        assert shown.startswith(whole)
        assert len(shown) <= len(whole) + 1, "of a letter with accents, or of some bytes, nothing stays"


def test_qwen_tokens_are_known_by_name_and_never_spelled(qwen):
    tokenizer, _ = qwen
    text = "".join(vocabularies.QWEN_TOKENS)
    assert set(tokenizer.special) == set(vocabularies.QWEN_TOKENS)
    assert not set(tokenizer.encode(text).tolist()) & set(tokenizer.special.values())
    assert tokenizer.detokenize([np.array([tokenizer.special["<|im_end|>"]], np.int32)]) == [""]


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.sampled_from(
    [
        " triangle",
        "caf\xe9",
        "\u65e5\u672c",
        "<loc_1>",
        "red",
        "a\nb",
        "\u0120red",
        "\u0100",
        "\U0001f600",
        "  ",
        "<s>x",
    ]
)
FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")


@pytest.mark.parametrize("name", ["byte_level", "llama2"])
@given(
    words=st.lists(st.tuples(WORDS, st.tuples(*[st.booleans()] * len(FLAGS))), max_size=6, unique_by=lambda w: w[0]),
    picks=st.lists(st.integers(0, 10**6), max_size=12),
    text=TEXTS,
    is_plain=st.booleans(),
)
def test_added_words_are_printed_as_the_library_prints_them(tmp_path_factory, name, words, picks, text, is_plain):
    content = json.loads({"byte_level": vocabularies.train_byte_level, "llama2": vocabularies.train_llama2}[name]())
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    first = 1 + max(*vocab.values(), *(token["id"] for token in added))
    new = [(w, flags) for w, flags in words if w not in vocab and w not in {token["content"] for token in added}]
    for token_id, (word, flags) in enumerate(new, first):
        values = dict(zip(FLAGS, flags, strict=True))
        values |= dict.fromkeys(FLAGS[1:4], False) if is_plain else {}
        added.append({"id": token_id, "content": word, **values})
    folder = tmp_path_factory.mktemp("added")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    if name == "byte_level" and is_plain and not any(word.isspace() for word, _ in new):
        assert isinstance(tokenizer, ByteLevelTokenizer)
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    row = [pick % first for pick in picks] + [first + pick % len(new) for pick in picks if new]
    rows = [row, row[::-1], list(range(first, first + len(new)))]
    expected = [library.decode(ids, skip_special_tokens=True) for ids in rows]
    assert tokenizer.detokenize([np.array(ids, np.int32) for ids in rows]) == expected
    # what a text spells is never one of them, blank ones excepted
    blank = [token for token in added if token["content"].isspace() and not token["special"]]
    plain = {**content, "added_tokens": []}
    if not blank:
        spelled = text + "".join(word for word, _ in new)
        assert (
            tokenizer.encode(spelled).tolist() == tokenizers.Tokenizer.from_str(json.dumps(plain)).encode(spelled).ids
        )


def test_ids_that_the_vocabulary_lacks_are_left_out(kind, loaded):
    row = np.array([loaded.vocab_size, *loaded.encode("red"), loaded.vocab_size + 7], np.int32)
    assert loaded.detokenize([row]) == ["red"]


def test_tiktoken_has_the_special_ids_of_llama3(tmp_path):
    vocabularies.write_tokenizer(tmp_path, "tiktoken")
    tokenizer = load_tokenizer(tmp_path)
    first = tokenizer.special.get("<|begin_of_text|>")
    assert first == len((tmp_path / "tokenizer.model").read_bytes().splitlines())
    names = (
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    )
    assert [tokenizer.special.get(name) - first for name in names] == [1, 2, 6, 7, 9]
    assert tokenizer.special.get("<|reserved_special_token_250|>") == first + 255 == tokenizer.vocab_size - 1


def changed(path: str, value: object) -> dict:
    content = json.loads(vocabularies.train_byte_level())
    *parents, last = path.split("/")
    place = content
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("normalizer", {"type": "NFC"}, LibraryTokenizer),
        ("pre_tokenizer/pretokenizers/0/pattern/Regex", r"\s+|\S+", LibraryTokenizer),
        ("pre_tokenizer/pretokenizers/0/behavior", "Removed", LibraryTokenizer),
        ("pre_tokenizer/pretokenizers/1/add_prefix_space", True, LibraryTokenizer),
        ("pre_tokenizer/pretokenizers/1/use_regex", True, LibraryTokenizer),
        (
            "pre_tokenizer",
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            LibraryTokenizer,
        ),
        ("decoder", {"type": "Fuse"}, LibraryTokenizer),
        ("model/end_of_word_suffix", "</w>", LibraryTokenizer),
        ("model/byte_fallback", True, LibraryTokenizer),
        ("added_tokens/0/lstrip", True, LibraryTokenizer),
        ("model/ignore_merges", False, ByteLevelTokenizer),
        ("decoder/use_regex", False, ByteLevelTokenizer),
    ],
)
def test_what_the_cpp_does_not_do_goes_to_the_library_and_nothing_else(tmp_path, path, value, kind):
    content = changed(path, value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, kind)
    for text in ["Please, it's 12345 small  circles!\n\n", *vocabularies.CORPUS]:
        assert tokenizer.encode(text).tolist() == reference(json.dumps(content)).encode(text).ids


def test_merges_written_as_strings_are_read(tmp_path):
    content = json.loads(vocabularies.train_byte_level())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = vocabularies.CORPUS[1]
    assert load_tokenizer(tmp_path).encode(text).tolist() == reference(vocabularies.train_byte_level()).encode(text).ids


def test_metaspace_marks_the_first_word_of_the_prompt_only(tmp_path):
    content = json.loads(vocabularies.train_llama2())
    content["normalizer"] = None
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    whole = (
        tokenizers.Tokenizer.from_str(json.dumps(content)).encode("USER: <image>\nred", add_special_tokens=False).ids
    )
    image = whole.index(tokenizer.special.get("<image>"))
    assert tokenizer.encode("USER: ").tolist() == whole[:image]
    assert tokenizer.encode("\nred", continues=True).tolist() == whole[image + 1 :]
    assert tokenizer.encode("\nred").tolist() != whole[image + 1 :]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n", "is it a SentencePiece model, as Llama 2 has"),
        ("tokenizer.model", b"IQ== 0\nIg== 2\n", "expected ranks 0, 1, 2"),
        ("tokenizer.json", b"{", "is not json"),
        ("tokenizer.json", b"[]", "holds list, expected an object"),
        ("vocab.txt", b"", "There is no tokenizer in"),
    ],
)
def test_unusable_vocabularies_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)


def test_llama3_itself():
    llama_models = pytest.importorskip("llama_models", reason="the package of Llama 3's vocabulary is not there")
    tokenizer = load_tokenizer(Path(llama_models.__path__[0]) / "llama3" / "tokenizer.model")
    assert isinstance(tokenizer, ByteLevelTokenizer)
    assert tokenizer.vocab_size == 128256
    assert tokenizer.special.get("<|eot_id|>") == 128009
    assert tokenizer.encode("hello world").tolist() == [15339, 1917]
