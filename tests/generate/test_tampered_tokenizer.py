"""A tokenizer.json that was tampered with is refused in a sentence or works; it neither crashes nor takes memory."""

import json

import numpy as np
import pytest
from support.tamper import NONSENSE, places, tampered

from inputs import vocabularies
from recap_fast.errors import ConfigError
from recap_fast.generate.tokenizer import Tokenizer, load_tokenizer

CONTENTS = {"byte_level": vocabularies.train_byte_level, "llama2": vocabularies.train_llama2}


def load(folder, text: str | bytes) -> Tokenizer:
    file = folder / "tokenizer.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_tokenizer(folder)


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("label", NONSENSE)
def test_every_place_takes_nonsense_or_names_the_file(tmp_path, kind, label):
    content = json.loads(CONTENTS[kind]())
    refusals = []
    for place in places(content):
        try:
            tokenizer = load(tmp_path, json.dumps(tampered(content, place, NONSENSE[label])))
        except ConfigError as error:
            refusals.append(str(error))
            continue
        row = np.array([*tokenizer.encode("red <s> circle"), *tokenizer.special.values()], np.int32)
        assert isinstance(tokenizer.detokenize([row])[0], str)
        assert "red circle".startswith(tokenizer.cut("red circle", 1)[0])
    assert all(refusal.startswith(str(tmp_path)) for refusal in refusals)


def added(**values: object) -> dict[str, object]:
    flags = dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": 407, "content": "<new>", **flags, **values}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([added(id=2_000_000_000)], r"'added_tokens.7.id' must be an integer from 0 to 4194303, not 2000000000"),
        ([added(id=-1)], r"'added_tokens.7.id' must be an integer from 0 to 4194303, not -1"),
        ([added(content="")], r"'added_tokens.7.content' is empty"),
        ([added(content=7)], r"'added_tokens.7.content' must be a string, not 7"),
        ([added(), added(content="<other>")], "'added_tokens' has two tokens of one id, or one token of two"),
        ([added(), added(id=408)], "'added_tokens' has two tokens of one id, or one token of two"),
        ([added(lstrip=True), added(id=500, content="<b>")], "the library gives '<b>' the id 408, not 500"),
        ([added(special="no")], "'added_tokens.7.special' must be true or false, not 'no'"),
        ([7], "'added_tokens.7' must be a table, not 7"),
    ],
)
def test_added_tokens_are_checked(tmp_path, tokens, message):
    content = json.loads(vocabularies.train_byte_level())
    assert len(content["added_tokens"]) == 7
    content["added_tokens"] += tokens
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, json.dumps(content))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"merges": [["zz", "yy"]]}, "is not a tokenizer.json of the `tokenizers` library"),
        ({"merges": [["a"]]}, "is not a tokenizer.json"),
        ({"merges": 7}, "is not a tokenizer.json"),
        ({"vocab": {"a": 0, "b": 0}}, "'model.vocab' has two tokens of one id"),
        ({"vocab": {"a": 2_000_000_000}}, "the id of 'a' in 'model.vocab' must be an id from 0 to 4194303"),
        ({"vocab": {"a": 1.0}}, "the id of 'a' in 'model.vocab' must be an id from 0 to 4194303, not 1.0"),
        ({"vocab": {}}, "'model.vocab' must be a table of ids, not {}"),
        ({"continuing_subword_prefix": "zz"}, "not every merge continues with 'model.continuing_subword_prefix', 'zz'"),
    ],
)
def test_the_vocabulary_is_checked(tmp_path, model, message):
    content = json.loads(vocabularies.train_byte_level())
    content["model"] |= model
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, json.dumps(content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deep to be read"),
        ('{"a":' * 100_000, "is nested too deep to be read"),
        ("", "is not json"),
        (b'{"a": "\xff"}', "is not UTF-8: invalid start byte at byte 7"),
        ('{"version": ' + "9" * 5000 + "}", "is not json"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert load(tmp_path, "\ufeff" + vocabularies.train_byte_level()).encode("red").tolist()


def test_tokens_that_tiktoken_has_twice_are_refused(tmp_path):
    vocabularies.write_tokenizer(tmp_path, "tiktoken")
    lines = (tmp_path / "tokenizer.model").read_bytes().splitlines()
    lines[-1] = lines[-2].split()[0] + b" " + lines[-1].split()[1]
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(lines))
    with pytest.raises(ConfigError, match=r"is not Llama 3's vocabulary: .* and no token twice"):
        load_tokenizer(tmp_path)
