from dataclasses import replace
from pathlib import Path

import pytest

from recap_fast.build.recipe import PROMPT, Recipe, RecipeLimits, find_recipe, load_recipe
from recap_fast.errors import ConfigError
from recap_fast.generate.prompt import parse_question
from recap_fast.generate.spec import Sizes

ENGINES = Path(__file__).parents[2] / "engines"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_load_by_path_and_by_name(path):
    assert load_recipe(path) == load_recipe(path.stem) == load_recipe(path.name)


def test_shipped_recipes_keep_the_papers_prompt_and_length():
    recipes = {path.stem: load_recipe(path) for path in ENGINES.glob("*.toml") if "joycaption" not in path.stem}
    assert len(recipes) == 5
    assert {r.prompt for r in recipes.values()} == {PROMPT}
    assert {r.limits.max_new_tokens for r in recipes.values()} == {128}
    assert recipes["llava_llama3_8b"].stop_tokens == ("<|end_of_text|>", "<|eot_id|>")
    assert recipes["llava_llama3_8b_fp8"].precision == recipes["llava_llama3_8b_fp8"].kv_precision == "fp8"
    assert recipes["llava_llama3_8b_int8"].precision == "int8"


def test_joycaptions_recipes_differ_in_precision_and_sizes_only():
    recipes = {path.stem: load_recipe(path) for path in ENGINES.glob("joycaption*.toml")}
    precisions = {name: (recipe.precision, recipe.kv_precision) for name, recipe in recipes.items()}
    assert precisions == {
        "joycaption": ("bfloat16", "auto"),
        "joycaption_fp8": ("fp8", "fp8"),
        "joycaption_int8": ("int8", "auto"),
    }
    plain = recipes["joycaption"]
    for name, recipe in recipes.items():
        assert recipe.name == name.replace("_", "-")
        kept = {"name": plain.name, "precision": plain.precision, "kv_precision": "auto", "cards": plain.cards}
        assert replace(recipe, base=None, **kept) == plain
    assert (plain.template, plain.stop_ids) == ("joycaption", (128001, 128008, 128009))
    assert (plain.sampling.temperature, plain.sampling.top_p, plain.limits.max_new_tokens) == (0.6, 0.9, 512)
    asked = {plain.prompt, *(name for names in plain.prompt_sets.values() for name in names)}
    assert asked <= plain.prompts.keys()
    assert set(plain.prompt_sets) == {"captions", "mixed"}
    for question in plain.prompts.values():
        assert parse_question(question) == [(question, None)]


BASE = """
name = "mine"
precision = "bfloat16"
stop_ids = [1, 2]
[prompts]
short = "What is it?"
long = "Describe it."
[limits]
num_slots = 64
max_new_tokens = 50
[cards]
"H100" = { num_slots = 8, prefill_images = 2 }
"""
DERIVED = """
base = "base.toml"
precision = "int8"
stop_ids = []
[prompts]
long = "Describe it well."
tags = "List tags."
[limits]
num_slots = 32
[cards]
"H100" = { num_slots = 16, prefill_images = 4 }
"""


def test_a_recipe_says_what_is_other_than_in_its_base(tmp_path):
    """Tables are merged key by key; lists, and the sizes of a card, are replaced."""
    (tmp_path / "base.toml").write_text(BASE)
    recipe = load_recipe(write(tmp_path, DERIVED))
    assert recipe == Recipe(
        base="base.toml",
        name="mine",
        precision="int8",
        prompts={"short": "What is it?", "long": "Describe it well.", "tags": "List tags."},
        limits=RecipeLimits(num_slots=32, max_new_tokens=50),
        cards={"H100": Sizes(num_slots=16, prefill_images=4)},
    )
    (tmp_path / "third.toml").write_text("base = 'recipe.toml'\nname = 'third'")
    assert load_recipe(tmp_path / "third.toml") == replace(recipe, base="recipe.toml", name="third")


def test_a_base_may_be_a_recipe_that_ships(tmp_path):
    recipe = load_recipe(write(tmp_path, "base = 'joycaption'\nprompt = 'cats'\nprompts.cats = 'Where are cats?'"))
    shipped = load_recipe("joycaption")
    assert recipe.prompts == {**shipped.prompts, "cats": "Where are cats?"}
    assert replace(recipe, base=None, prompt=shipped.prompt, prompts=shipped.prompts) == shipped


def test_a_base_does_not_depend_on_the_folder_that_a_command_runs_in(tmp_path, monkeypatch):
    """Its path is from the recipe's folder, and what lies in another folder is no recipe that ships."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "base.toml").write_text("name = 'wrong'")
    (tmp_path / "joycaption").write_text("this is no recipe")
    recipe = write(tmp_path / "recipes", "base = 'base.toml'")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("joycaption_fp8").template == "joycaption"
    with pytest.raises(
        ConfigError,
        match=r"recipe.toml: 'base' must be the path of a recipe, from the folder of this one, or the name of one that "
        r"ships. There is no recipe base.toml.",
    ):
        load_recipe(recipe)
    (tmp_path / "recipes" / "base.toml").write_text("name = 'right'")
    assert load_recipe(recipe).name == "right"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "joycaptoin",
            r"recipe.toml: 'base' must be .* There is no recipe joycaptoin \(did you mean 'joycaption'\?\)",
        ),
        ("recipe.toml", "recipe.toml: 'base' leads back to recipe.toml"),
        ("other.toml", "other.toml: 'base' leads back to recipe.toml"),
        ("wrong.toml", "wrong.toml has an unknown key 'templat'"),
        ("", r"'base' is empty"),
    ],
)
def test_a_base_that_cannot_be_is_named(tmp_path, base, message):
    (tmp_path / "other.toml").write_text("base = 'recipe.toml'")
    (tmp_path / "wrong.toml").write_text("templat = 'llama3'")
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, f"base = '{base}'"))


def test_empty_recipe_leaves_all_to_the_checkpoint(tmp_path):
    assert load_recipe(write(tmp_path, "")) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templat = 'x'", r"unknown key 'templat' \(did you mean 'template'\?\). Known keys: base, name, template"),
        (
            "[limits]\nmax_tokens = 3",
            r"unknown key 'limits.max_tokens' \(did you mean .*Known keys: max_new_tokens",
        ),
        ("zzz = 1", r"unknown key 'zzz'. Known keys"),
        ("prompt = 3", "'prompt' must be a string, not 3"),
        ("prompt = ''", "'prompt' is empty"),
        ("stop_ids = ['a']", r"'stop_ids' must be a list of integers from 0 to 4194303, not \['a'\]"),
        ("stop_ids = [true]", "'stop_ids' must be a list of integers"),
        ("stop_tokens = 'a'", "'stop_tokens' must be a list of strings, not 'a'"),
        ("limits = 3", "'limits' must be a table, not 3"),
        ("precision = 'int4'", "'precision' must be one of auto, float32, bfloat16, float16, fp8, int8, not 'int4'"),
        ("kv_precision = 'int8'", "'kv_precision' must be one of auto, fp8, not 'int8'"),
        ("cards = 3", "'cards' must be a table, not 3"),
        ("cards.H200 = 448", "'cards.H200' must be a table, not 448"),
        ("cards.H200 = {num_slots = 8}", "'cards.H200.prefill_images' is missing"),
        (
            "cards.H200 = {num_slots = 8, prefill_images = 0}",
            "'cards.H200.prefill_images' must be an integer from 1 to 65536, not 0",
        ),
        ("prompts = ['a']", "'prompts' must be a table, not "),
        ("[prompts]\nshort = ''", "'prompts.short' is empty"),
        ("[prompt_sets]\nall = 'short'", "'prompt_sets.all' must be a list of strings or a table, not 'short'"),
        ("[prompt_sets]\nall = [1]", r"'prompt_sets.all' must be a list of strings, not \[1\]"),
        ("[prompt_sets]\nsome = {a = 0}", "'prompt_sets.some.a' must be a number above 0 and up to 1e\\+12, not 0"),
        ("[prompt_sets]\nsome = {a = -1.5}", "'prompt_sets.some.a' must be a number above 0 and up to 1e"),
        ("[prompt_sets]\nsome = {a = nan}", "'prompt_sets.some.a' must be a number above 0 and up to 1e"),
        ("[sampling]\ntemperature = 11", "'sampling.temperature' must be a number from 0.0 to 10.0, not 11"),
        ("[sampling]\ntop_p = 0", "'sampling.top_p' must be a number above 0 and up to 1, not 0"),
        ("[sampling]\nseed = 1", "unknown key 'sampling.seed'. Known keys: temperature, top_k, top_p"),
        ("preprocess = 'squash'", "'preprocess' must be one of auto, pad, crop, stretch, not 'squash'"),
        ("[limits]\nnum_slots = 0", "'limits.num_slots' must be an integer from 1 to 65536, not 0"),
        ("[limits]\nnum_slots = true", "'limits.num_slots' must be an integer from 1 to 65536, not True"),
        ("[limits]\nmax_new_tokens = 0", "'limits.max_new_tokens' must be an integer of at least 1, not 0"),
        ("[limits]\nmax_new_tokens = nan", "'limits.max_new_tokens' must be an integer of at least 1, not nan"),
        (f"stop_ids = 0x{'f' * 5000}", "'stop_ids' must be a list of integers, not a number of 20000 bits"),
        ("stop_ids = [-1]", r"'stop_ids' must be a list of integers from 0 to 4194303, not \[-1\]"),
        ("notice = 2026-11-27", "'notice' must be a string, not datetime"),
        ("name =", "is not TOML"),
        (f"stop_ids = {'9' * 5000}", "is not TOML"),
        (f"stop_ids = {'[' * 100_000}", "is nested too deep|is not TOML"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path):
    assert load_recipe(write(tmp_path, "\ufeffname = 'mine'")).name == "mine"
    (tmp_path / "recipe.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"recipe.toml is not UTF-8: invalid start byte at byte 8"):
        load_recipe(tmp_path / "recipe.toml")


def test_unknown_recipes_name_the_known_ones(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no recipe recap_tinny \(did you mean 'recap_tiny'\?\).*llava_llama3_8b_fp8"
    ):
        find_recipe("recap_tinny")
    with pytest.raises(ConfigError, match=r"Give the path of a .toml file, or a name"):
        find_recipe(tmp_path / "recap_tiny.toml")
