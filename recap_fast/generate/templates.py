"""Conversation templates: the texts around image and question that each family of models was trained with."""

from dataclasses import dataclass

from recap_fast.errors import ConfigError
from recap_fast.generate.tokenizer import Tokenizer

BOS = ("<|begin_of_text|>", "<s>")
QUESTION = "{question}"
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAVA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
QWEN_SYSTEM = "You are a helpful assistant."
JOYCAPTION_SYSTEM = (
    "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\nYou are a helpful image captioner."
)
"""With the dates that Llama 3.1's own template puts first."""


class Special(str):
    """A special token of a template."""

    __slots__ = ()


class Word(Special):
    """A special token where the vocabulary has it, else its letters."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A conversation of one turn around an image: BOS, `before`, image, `after`."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    stop_tokens: tuple[str, ...]
    """Special tokens that end the answer, as far as the vocabulary has them."""
    bos: tuple[str, ...] = BOS
    """Begins the prompt, under the name that the vocabulary has for it; empty for none."""


def _header(role: str) -> tuple[str, ...]:
    return Special("<|start_header_id|>"), role, Special("<|end_header_id|>"), "\n\n"


def _llama3(system: str | None) -> Template:
    turn = (*_header("system"), system, Special("<|eot_id|>")) if system else ()
    return Template(
        before=(*turn, *_header("user")),
        after=(f"\n{QUESTION}", Special("<|eot_id|>"), *_header("assistant")),
        stop_tokens=("<|end_of_text|>", "<|eot_id|>"),
    )


def _joycaption() -> Template:
    """The chat template of JoyCaption alpha two and beta one: the image stands between tokens, without a new line."""
    wrapped = _llama3(JOYCAPTION_SYSTEM)
    return Template(
        before=(*wrapped.before, Special("<|reserved_special_token_70|>")),
        after=(Special("<|reserved_special_token_71|>"), QUESTION, *wrapped.after[1:]),
        stop_tokens=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    )


def _chatml(system: str | None) -> Template:
    start, end = Special("<|im_start|>"), Special("<|im_end|>")
    turn = (start, f"system\n{system}", end, "\n") if system else ()
    return Template(
        before=(*turn, start, "user\n"),
        after=(f"\n{QUESTION}", end, "\n", start, "assistant\n"),
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        bos=(),
    )


TEMPLATES = {
    "llama3": _llama3(None),  # xtuner's llama3_chat
    "llava_llama_3": _llama3(LLAVA_SYSTEM),  # LLaVA-NeXT
    "llama3_vicuna_system": _llama3(VICUNA_SYSTEM),  # LLaVA-pp
    "vicuna_v1": Template(
        before=(f"{VICUNA_SYSTEM} USER: ",),
        after=(f"\n{QUESTION} ASSISTANT:",),
        stop_tokens=("</s>", "<|end_of_text|>"),
    ),
    "mistral_instruct": Template(  # LLaVA-NeXT
        before=(Word("[INST]"), " "),
        after=(f"\n{QUESTION} ", Word("[/INST]")),
        stop_tokens=("</s>",),
        bos=("<s>",),
    ),
    "chatml": _chatml(None),  # as Qwen3's own
    "chatml_system": _chatml(QWEN_SYSTEM),  # as Qwen2's own, and LLaVA-NeXT's qwen_1_5
    "joycaption": _joycaption(),
}
_FIRST_TOKENS = {
    "<|start_header_id|>": "llama3",
    "<think>": "chatml",
    "<|im_start|>": "chatml_system",
    "[INST]": "mistral_instruct",
}
"""What 'auto' chooses, by the first of these tokens that a vocabulary has."""


def find_template(name: str, tokenizer: Tokenizer) -> tuple[str, Template]:
    """A template by name; 'auto' is the one whose tokens the tokenizer has: see `_FIRST_TOKENS`, else vicuna_v1.

    Raises ConfigError for an unknown name, or where the tokenizer lacks a token that the template needs.
    """
    if name == "auto":
        name = next((name for token, name in _FIRST_TOKENS.items() if token in tokenizer.special), "vicuna_v1")
    if name not in TEMPLATES:
        raise ConfigError(f"There is no template '{name}'. Known templates: {', '.join(TEMPLATES)}.")
    template = TEMPLATES[name]
    wanted = [p for p in (*template.before, *template.after) if type(p) is Special]
    missing = [token for token in dict.fromkeys(wanted) if token not in tokenizer.special]
    if missing:
        raise ConfigError(
            f"Template '{name}' needs {', '.join(missing)}, which the tokenizer lacks: "
            "choose the template that the model was trained with, or give the model's own tokenizer."
        )
    return name, template
