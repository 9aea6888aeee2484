"""What an engine asks and where its answers end: the prompts, and stop ids of recipe, checkpoint or template."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from recap_fast.build.architecture import Architecture, read_ids
from recap_fast.build.recipe import Recipe
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import hint, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.prompts import NAME, Asked, Prompts, check_prompts, choose
from recap_fast.generate.spec import PromptSpec, SamplingSpec
from recap_fast.generate.templates import Template
from recap_fast.generate.tokenizer import Tokenizer, special_ids

GENERATION = "generation_config.json"
NEUTRAL = {
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": {},
    "guidance_scale": 1,
    "num_beams": 1,
}
"""Keys by which transformers changes greedy captions, too, and the values that change none."""
logger = logging.getLogger(__name__)


def make_prompt(recipe: Recipe, template: str) -> PromptSpec:
    """The recipe's prompts; its `prompt` may be the name of one or of a set. Raises ConfigError where they do not fit
    together."""
    named = PromptSpec(template=template, text=recipe.prompt, prompts=recipe.prompts, sets=recipe.prompt_sets)
    check_prompts(named)
    if recipe.sampling.temperature == 0 and recipe.sampling != SamplingSpec():
        raise ConfigError(
            "[sampling] has top_k or top_p and no temperature above 0: give one, or leave them out. Where they are "
            "the base's, write top_k = 0 and top_p = 1."
        )
    known = (*recipe.prompts, *recipe.prompt_sets)
    if recipe.prompt in known:
        question = next(iter(choose(named, (recipe.prompt,))[0].questions.values()))
        return replace(named, text=question, default=recipe.prompt)
    if known and NAME.fullmatch(recipe.prompt):
        raise ConfigError(
            f"The recipe's prompt '{recipe.prompt}' is none of its prompts{hint(recipe.prompt, known)}: there are "
            f"{', '.join(known)}. To ask this word, put it under [prompts]."
        )
    return named


def find_longest(recipe: Recipe, prompt: PromptSpec, tokenizer: Tokenizer) -> PromptEncoder:
    """The encoder of the prompt that takes the most tokens. Raises ConfigError for one that takes too many."""
    questions = prompt.prompts if prompt.default is not None else {"the prompt": prompt.text, **prompt.prompts}
    asked = [Asked({name: question}) for name, question in questions.items()]
    return Prompts(tokenizer, prompt, asked, max_text_tokens=recipe.limits.max_text_tokens).longest


def find_stop_ids(
    recipe: Recipe, folder: Path, architecture: Architecture, template: Template, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """The recipe's; else the checkpoint's (generation_config.json before config.json) and the template's.

    Raises ConfigError where there are none, or not in the vocabulary.
    """
    if recipe.stop_ids or recipe.stop_tokens:
        ids = {*recipe.stop_ids, *special_ids(tokenizer, recipe.stop_tokens)}
        unknown = [token for token in recipe.stop_tokens if token not in tokenizer.special]
        if unknown:
            raise ConfigError(
                f"The tokenizer has no special tokens {', '.join(unknown)}, which the recipe's stop_tokens name."
            )
    else:
        path = folder / GENERATION
        given = read_ids(path, read_json(path).get("eos_token_id")) if path.is_file() else ()
        ids = {*(given or architecture.eos_ids), *special_ids(tokenizer, template.stop_tokens)}
    outside = sorted(i for i in ids if not 0 <= i < architecture.text.vocab_size)
    if outside or not ids:
        what = f"Stop ids {outside} are outside the vocabulary" if outside else "There are no stop ids"
        raise ConfigError(f"{what}: name the tokens that end an answer in the recipe's stop_tokens.")
    for token_id in ids.difference(recipe.stop_ids, tokenizer.special.values()):
        if text := tokenizer.detokenize([np.array([token_id], np.int32)])[0]:
            logger.warning("%s stops at token %d, which is text: %r.", folder, token_id, text)
    return tuple(sorted(ids))


def warn_of_generation(folder: Path) -> None:
    """Says what the checkpoint's generation_config.json asks for and no engine does."""
    path = folder / GENERATION
    config = read_json(path) if path.is_file() else {}
    asked = [f"{name} {shown(config[name])}" for name, none in NEUTRAL.items() if config.get(name) not in (None, none)]
    if asked:
        logger.warning(
            "%s asks for %s. recap-fast does not apply that, so captions may differ from those of transformers.",
            path,
            " and ".join(asked),
        )
