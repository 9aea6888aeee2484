"""Which published checkpoints load, by the facts of their config.json. docs/checkpoints.md has them in two tables."""

import json
import re

import pytest
from support.manual import ROOT
from support.published import LOADS, REFUSED

from recap_fast.build.architecture import read_architecture
from recap_fast.errors import ConfigError


@pytest.mark.parametrize("name", LOADS)
def test_what_loads(tmp_path, name):
    config, expected = LOADS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_architecture(tmp_path)
    vision, text = found.vision, found.text
    marks = [f"{text.vocab_size}"]
    marks += [mark for mark, holds in (("biased", text.qkv_bias), ("tied", text.tied_head)) if holds]
    marks += ["llama3 rope"] if text.rope.factor else []
    kind = "clip" if vision.has_class_token else "siglip"
    mode = f", {found.preprocess_mode}" if found.preprocess_mode else ""
    assert (
        f"{kind} {vision.hidden_size} x {vision.num_layers}, {vision.num_image_tokens} tokens{mode}; "
        f"{text.hidden_size} x {text.num_layers}, {text.num_heads}/{text.num_kv_heads} heads, {', '.join(marks)}"
    ) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    config, message = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_architecture(tmp_path)


def test_the_guide_has_all_of_them():
    page = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
    loads, refused = (
        page.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in ("What loads", "What does not")
    )
    names = r"\[([\w-]+/[\w.-]+)\]\(https://huggingface\.co/\1\)"
    assert set(LOADS) <= set(re.findall(names, loads))
    assert set(REFUSED) <= set(re.findall(names, refused))
    assert not set(re.findall(names, loads)) & set(re.findall(names, refused))
