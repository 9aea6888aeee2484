"""The ids of each template are those of its whole text, which is written out here from where it was published."""

import pytest
import tokenizers

from inputs import vocabularies
from recap_fast.build.recipe import PROMPT
from recap_fast.errors import ConfigError
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import PromptSpec
from recap_fast.generate.templates import TEMPLATES, find_template
from recap_fast.generate.tokenizer import load_tokenizer

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
NEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
JOY = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 July 2024\n\nYou are a helpful image captioner.<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\n<|reserved_special_token_70|><image><|reserved_special_token_71|>{Q}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
USER, SYSTEM, ASSISTANT = (
    f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "system", "assistant")
)
QWEN_TURNS = "<|im_start|>user\n<image>\n{Q}<|im_end|>\n<|im_start|>assistant\n"
INST = "[INST] <image>\n{Q} [/INST]"
WHOLE = {
    "llama3": ("byte_level", f"<|begin_of_text|>{USER}<image>\n{{Q}}<|eot_id|>{ASSISTANT}"),
    "llava_llama_3": (
        "byte_level",
        f"<|begin_of_text|>{SYSTEM}{NEXT}<|eot_id|>{USER}<image>\n{{Q}}<|eot_id|>{ASSISTANT}",
    ),
    "llama3_vicuna_system": (
        "byte_level",
        f"<|begin_of_text|>{SYSTEM}{VICUNA}<|eot_id|>{USER}<image>\n{{Q}}<|eot_id|>{ASSISTANT}",
    ),
    "vicuna_v1": ("byte_level", f"<|begin_of_text|>{VICUNA} USER: <image>\n{{Q}} ASSISTANT:"),
    "mistral_instruct": ("instructed", f"<s>{INST}"),
    "chatml": ("qwen", QWEN_TURNS),
    "chatml_system": ("qwen", f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{QWEN_TURNS}"),
    "joycaption": ("joycaption", JOY),
}
"""The vocabulary that a template is for, and its text."""
MORE = {
    "instructed": ("<s>", "[INST]", "[/INST]"),
    "joycaption": ("<|reserved_special_token_70|>", "<|reserved_special_token_71|>"),
}
"""Vocabularies with more special tokens than Llama 3's."""


def write_vocabulary(folder, kind):
    """Writes it, and returns the library's tokenizer and ours."""
    vocabularies.write_tokenizer(folder, "byte_level" if kind in MORE else kind)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_special_tokens(list(MORE.get(kind, ())))
    library.save(str(folder / "tokenizer.json"))
    return library, load_tokenizer(folder)


def whole_ids(library, text):
    """The library's ids of a whole prompt, in which special tokens are control tokens; split at the image."""
    ids = library.encode(text.replace("{Q}", PROMPT), add_special_tokens=False).ids
    image = ids.index(library.token_to_id("<image>"))
    return ids[:image], ids[image + 1 :]


def encoder(tokenizer, template):
    return PromptEncoder(tokenizer, PromptSpec(template=template, text=PROMPT))


@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_equal_those_of_the_whole_text(template, tmp_path):
    kind, text = WHOLE[template]
    library, tokenizer = write_vocabulary(tmp_path, kind)
    before, after = whole_ids(library, text)
    prompt = encoder(tokenizer, template)
    assert prompt.prefix_ids.tolist() == before
    assert prompt.text_ids({})[0].tolist() == after
    bos = [tokenizer.special.get(name) for name in TEMPLATES[template].bos]
    assert sum(i in bos for i in before) == bool(bos), "one BOS, or none"


@pytest.mark.parametrize(
    ("template", "text"),
    [("vicuna_v1", f"{VICUNA} USER: <image>\n{{Q}} ASSISTANT:"), ("mistral_instruct", INST)],
)
def test_llama2_ids_equal_those_of_the_whole_text_behind_its_own_start(template, text, tmp_path):
    """Its vocabulary has no token [INST]: letters, as in Mistral's first two versions."""
    library, tokenizer = write_vocabulary(tmp_path, "llama2")
    before, after = whole_ids(library, text)
    prompt = encoder(tokenizer, template)
    assert prompt.prefix_ids.tolist() == [tokenizer.special["<s>"], *before]
    assert prompt.text_ids({})[0].tolist() == after


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("byte_level", (), "llama3"),
        ("joycaption", (), "llama3"),  # every Llama 3.1 has its tokens
        ("llama2", (), "vicuna_v1"),
        ("llama2", ("[INST]", "[/INST]"), "mistral_instruct"),
        ("qwen", (), "chatml_system"),
        ("qwen", ("<think>",), "chatml"),
    ],
)
def test_template_follows_the_tokenizer(kind, more, expected, tmp_path):
    library, _ = write_vocabulary(tmp_path, kind)
    library.add_tokens(list(more))
    library.save(str(tmp_path / "tokenizer.json"))
    assert find_template("auto", load_tokenizer(tmp_path))[0] == expected


def test_a_template_whose_tokens_are_not_there_is_refused(tmp_path):
    _, tokenizer = write_vocabulary(tmp_path, "llama2")
    with pytest.raises(ConfigError, match=r"'llama3' needs <\|start_header_id\|>.*which the tokenizer lacks"):
        find_template("llama3", tokenizer)
    with pytest.raises(ConfigError, match=r"'chatml' needs <\|im_start\|>, <\|im_end\|>, which the tokenizer lacks"):
        find_template("chatml", tokenizer)
    _, qwen = write_vocabulary(tmp_path, "qwen")
    with pytest.raises(ConfigError, match=r"no token that begins a text: expected <\|begin_of_text\|> or <s>"):
        encoder(qwen, "vicuna_v1")
