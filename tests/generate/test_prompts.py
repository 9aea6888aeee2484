"""What a run asks, by text, by name and by set; how a prompt is drawn; and what no recipe or run may name."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inputs import vocabularies
from recap_fast.errors import ConfigError
from recap_fast.generate.prompts import Asked, Prompts, caption_noise, check_prompts, choose, is_plain, text_of
from recap_fast.generate.spec import PromptSpec
from recap_fast.generate.tokenizer import load_tokenizer

SPEC = PromptSpec(
    template="llama3",
    text="What is it?",
    prompts={"short": "In a word?", "long": "Describe {org_caption} in detail.", "tags": "List tags."},
    sets={"all": ("short", "tags"), "mixed": {"long": 2.0, "short": 1.0}},
)
BARE = PromptSpec(template="llama3", text="What is it?")
MIXED = Asked({"long": SPEC.prompts["long"], "short": "In a word?"}, "mixed", {"long": 2.0, "short": 1.0})


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabularies.write_tokenizer(folder, "byte_level")
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((), (Asked({"prompt1": "What is it?"}),)),
        (("Why?",), (Asked({"prompt1": "Why?"}),)),
        (("short", "Why?"), (Asked({"short": "In a word?"}), Asked({"prompt2": "Why?"}))),
        (("why=Why = or?\nWhen?",), (Asked({"why": "Why = or?\nWhen?"}),)),
        (("Is 1 + 1 = 2?",), (Asked({"prompt1": "Is 1 + 1 = 2?"}),)),
        (("all",), (Asked({"short": "In a word?"}), Asked({"tags": "List tags."}))),
        (("mixed", "tags"), (MIXED, Asked({"tags": "List tags."}))),
        (("p=1=Why?",), (Asked({"p": "1=Why?"}),)),
        (("1 = Why?",), (Asked({"prompt1": "1 = Why?"}),)),
        (("word=tags",), (Asked({"word": "tags"}),)),
        (("short=Other?",), (Asked({"short": "Other?"}),)),
    ],
)
def test_texts_names_and_sets_become_a_list_of_what_is_asked(given, asked):
    assert choose(SPEC, given) == asked


@pytest.mark.parametrize(
    ("default", "names"),
    [(None, [["prompt1"]]), ("long", [["long"]]), ("all", [["short"], ["tags"]]), ("mixed", [["long", "short"]])],
)
def test_an_engine_has_a_default_that_a_run_may_replace(default, names):
    spec = PromptSpec(template="llama3", text="?", default=default, prompts=SPEC.prompts, sets=SPEC.sets)
    assert [list(each.questions) for each in choose(spec)] == names
    assert choose(spec, ["Why?"]) == (Asked({"prompt1": "Why?"}),)


def test_a_word_is_a_question_where_the_engine_has_no_names():
    assert choose(BARE, ("tags",)) == (Asked({"prompt1": "tags"}),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("shrot",), r"no prompt 'shrot' \(did you mean 'short'\?\)\. The engine has short, long, tags, all, mixed\."),
        (("Cat",), r"no prompt 'Cat'.* give it a name: --prompt 'word=Cat'$"),
        (("Describe.",), r"no prompt 'Describe.'.* give it a name: --prompt 'word=Describe.'$"),
        (("short", "short"), "There are two prompts called 'short'"),
        (("1=Why?",), r"'1' cannot be the name of a prompt: a name begins with a letter .*: prompt1=1=Why\?$"),
        (("short", "kürze=Why?"), r"'kürze' cannot be the name of a prompt.*: prompt2=kürze=Why\?$"),
        (("all", "mixed"), "two prompts called 'short'"),
        (("a=b?", "a=c?"), "two prompts called 'a': leave one out, or give it a name, NAME=TEXT"),
    ],
)
def test_unknown_and_repeated_names_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        choose(SPEC, given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": {"a b": "?"}}, "'a b' cannot be the name of a prompt or of a set"),
        ({"prompts": {"1st": "?"}}, "'1st' cannot be the name"),
        ({"prompts": {"a" * 65: "?"}}, "cannot be the name"),
        ({"sets": {"": ("a",)}}, "'' cannot be the name"),
        ({"prompts": {"a": "What is {0}?"}}, r"prompts\.a: .*unknown field \{0\}"),
        ({"prompts": {"a": "?"}, "sets": {"a": ("a",)}}, "'a' is the name of a prompt and of a set"),
        ({"prompts": {"a": "?"}, "sets": {"s": ()}}, "The set prompt_sets.s is empty"),
        ({"prompts": {"a": "?"}, "sets": {"s": {}}}, "The set prompt_sets.s is empty"),
        (
            {"prompts": {"short": "?"}, "sets": {"s": {"shot": 1.0}}},
            r"has 'shot' \(did you mean 'short'\?\), which is no",
        ),
        ({"sets": {"s": ("a",)}}, "prompt_sets.s has 'a', which is no prompt: there are none"),
        ({"prompts": {"a": "?"}, "sets": {"s": ("a", "a")}}, "prompt_sets.s has a prompt twice"),
    ],
)
def test_names_and_sets_that_cannot_be_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        check_prompts(PromptSpec(template="llama3", text="?", **changed))
    check_prompts(SPEC)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_draw_is_by_the_formula_of_the_manual():
    for number in range(50):
        whole = digest(number) + b"\0" + b"-7" + b"\0" + b"mixed"
        point = (int.from_bytes(hashlib.sha256(whole).digest()[:8], "big") >> 11) / 2**53
        assert MIXED.draw(digest(number), -7) == ("long" if point < 2 / 3 else "short")


def test_prompts_are_drawn_by_their_weights():
    found = Counter(MIXED.draw(digest(number), 0) for number in range(3000))
    assert abs(found["long"] - 2000) < 4 * (3000 * 2 / 9) ** 0.5  # four standard deviations of a binomial


def test_another_seed_image_or_set_draws_anew_and_the_order_of_a_table_does_not_count():
    turned = Asked(dict(reversed(MIXED.questions.items())), "mixed", dict(reversed(MIXED.weights.items())))
    other = Asked(MIXED.questions, "other", MIXED.weights)

    def draws(asked, seed=0):
        return [asked.draw(digest(number), seed) for number in range(100)]

    assert draws(turned) == draws(MIXED)
    assert len({tuple(draws(MIXED)), tuple(draws(MIXED, 1)), tuple(draws(other))}) == 3


@given(st.dictionaries(st.text(min_size=1), st.floats(1e-300, 1e12), min_size=1), st.binary(max_size=32), st.integers())
def test_whatever_the_weights_one_prompt_is_drawn(weights, image, seed):
    assert Asked(dict.fromkeys(weights, "?"), "s", weights).draw(image, seed) in weights


# -- random numbers ----------------------------------------------------------------------------------------------------


def test_the_first_caption_has_the_images_random_numbers_and_each_other_one_its_own():
    assert {caption_noise(5, question, 0) for question in ("a", "b\udc00")} == {5}
    keys = [caption_noise(key, question, j) for key in (5, 6) for question in ("a", "b\udc00") for j in (1, 2, 3)]
    assert len({*keys, 5, 6}) == 14
    assert all(0 <= key < 2**64 for key in keys)
    assert caption_noise(5, "a", 1) == int.from_bytes(hashlib.blake2b(b"5\x001\0a", digest_size=8).digest(), "little")


# -- encoded -----------------------------------------------------------------------------------------------------------


def make(vocabulary, *given, **options):
    return Prompts(vocabulary, SPEC, choose(SPEC, given), **options)


def test_all_prompts_have_one_prefix_and_the_longest_decides_the_room(vocabulary):
    prompts = make(vocabulary, "all", "long", max_field_tokens=9)
    names = [prompt.name for prompt in prompts.of_image(None, 0)]
    assert names == ["short", "tags", "long"]
    encoders = [prompt.encoder for prompt in prompts.of_image(None, 0)]
    assert {tuple(encoder.prefix_ids) for encoder in encoders} == {tuple(prompts.prefix_ids)}
    assert prompts.max_text_tokens == max(encoder.max_text_tokens for encoder in encoders) > encoders[0].max_text_tokens
    assert prompts.fields == ("org_caption",)
    assert prompts.text_ids({})[0].tolist() == encoders[0].text_ids({})[0].tolist()
    alone = make(vocabulary, "long", max_field_tokens=9).text_ids({"org_caption": "a cat " * 20})
    beside = encoders[2].text_ids({"org_caption": "a cat " * 20})
    assert (alone[0].tolist(), alone[1]) == (beside[0].tolist(), beside[1])


def test_questions_of_the_engine_have_its_limit_and_others_their_own(vocabulary):
    assert Prompts(vocabulary, BARE, max_text_tokens=200).max_text_tokens == 200
    assert make(vocabulary, "Why?", max_text_tokens=200).max_text_tokens < 50
    assert make(vocabulary, "short", max_text_tokens=200).max_text_tokens < 50, "it needs no more"
    assert make(vocabulary, "long", max_text_tokens=56).max_text_tokens == 56
    with pytest.raises(ConfigError, match=r"^long: The prompt has \d+ tokens after the image, the engine takes 12"):
        make(vocabulary, "Why?", "long", max_text_tokens=12)
    with pytest.raises(ConfigError, match=r"^The prompt has"):
        make(vocabulary, "long", max_text_tokens=12)


@pytest.mark.parametrize(
    ("given", "num", "captions", "plain", "drawn"),
    [
        ((), 1, 1, True, False),
        (("short",), 1, 1, True, False),
        (("short",), 3, 3, False, False),
        (("all",), 2, 4, False, False),
        (("mixed",), 1, 1, False, True),
        (("mixed", "tags"), 1, 2, False, True),
    ],
)
def test_how_many_captions_an_image_gets(vocabulary, given, num, captions, plain, drawn):
    prompts = make(vocabulary, *given, num_captions=num)
    assert (prompts.captions_per_image, prompts.is_plain, prompts.is_drawn) == (captions, plain, drawn)
    assert is_plain(prompts.asked, num) == plain


def test_what_is_drawn_depends_on_the_image_and_the_seed(vocabulary):
    prompts = make(vocabulary, "tags", "mixed")
    for number in range(20):
        names = [prompt.name for prompt in prompts.of_image(digest(number).hex(), 3)]
        assert names == ["tags", MIXED.draw(digest(number), 3)]


def test_people_and_fingerprints_are_told_all_of_it():
    assert text_of(choose(SPEC, ["short"]), 1) == "In a word?"
    assert text_of(choose(SPEC, ["tags", "mixed"]), 1) == (
        "tags: List tags.\n"
        "one of mixed, drawn by weight: long (2): Describe {org_caption} in detail.; short (1): In a word?"
    )
    assert choose(SPEC, ["tags"])[0].as_json(7) == {"prompts": {"tags": "List tags."}}
    assert MIXED.as_json(7) == {"set": "mixed", "prompts": MIXED.questions, "weights": MIXED.weights, "seed": 7}
