import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.write.flags import FLAGS, RowFlags, is_loop

PROMPT = 'The alt text is "{org_caption}". Please generate a detailed caption of this image. Be brief.'
LONG = "A red bus stands at the stop."


def flags(caption, reason="stop", *, prompt=PROMPT, **options):
    return RowFlags(prompt).find(caption, reason, **options)


@pytest.mark.parametrize(
    "caption",
    [
        "A cat sits on a mat. It looks at the camera, and the camera looks back.",
        'A sign says "I\'m sorry", and another one "As an AI".',
        "As an AI-generated image, it has six fingers.",
        "I-beams carry the roof.",
        "Sorrel grows by the road.",
        "A very, very, very long train.",
        "A red ball, a blue ball, a green ball, a red box, a blue box and a green box.",
        "It is red. It is round. It is red.",
        "A shop in Tokyo with a sign that reads 東京ラーメン; the menu beside it is in Русский.",
        "Tiếng Việt: một con mèo ngồi trên bàn, và một con chó.",
        "Café – naïve “façade” 😀😀😀😀😀😀😀😀 №5 ½ ²",
        "12345 ... !!! 😀",
        "A scene with an image of a cat.",
        "The images on the wall show cats.",
        "Be brief, said the sign.",
        "Lines\nand\ttabs\r\nare fine.",
        "I am not able-bodied, says the poster in the gym.",
        '"Sorry, we\'re closed" reads a sign in the window of a shop.',
        "As an airplane takes off, its shadow follows. As an aid to sailors, a buoy blinks.",
        "It is not a bird. It looks like you could touch it.",
        "There is no image on the wall, and please provide for the cat.",
        "Name: ____________ Date: ____________ Signature: ____________________",
        "A list:\n1. A dog\n2. A cat\n3. A cow",
        "The man in the picture is a sailor.",
        "",
    ],
)
def test_a_caption_without_flags(caption):
    assert flags(caption) == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (f"{LONG} {LONG}", "loop"),
        (f"{LONG} It is empty. {LONG.upper()}", "loop"),
        ("A man and a dog and a dog and a dog and", "loop"),
        ("red red red red red red red red", "loop"),
        ("with a tree, a house, with a tree, a house, with a tree, a house,", "loop"),
        ("A dog 1. and a cat 2. and a cat 3. and a cat", "loop"),
        ("1. A dog\n2. A dog\n3. A dog\n4. A dog\n", "loop"),
        (f"A text: {'A' * 40}", "loop"),
        (f"They laugh: {'ha' * 20}", "loop"),
        (f"{'blue-and-white-' * 3}blue", "loop"),
        ("I'm sorry, but I can't see it.", "refusal"),
        ("**I'm sorry**, but no.", "refusal"),
        ("My apologies, but no.", "refusal"),
        ("As a text-based AI, I see nothing.", "refusal"),
        ("As an artificial intelligence, I have no eyes.", "refusal"),
        ("As an AI developed by others, I decline.", "refusal"),
        ("I'm just an AI, and blind.", "refusal"),
        ("I must respectfully decline.", "refusal"),
        ("I’m not comfortable with it.", "refusal"),
        ("I'm afraid I cannot.", "refusal"),
        ("I don't feel comfortable with it.", "refusal"),
        ("I do not see an image. Is there one?", "refusal"),
        ("It seems that you haven't uploaded an image.", "refusal"),
        ("There is no image attached.", "refusal"),
        ("Please provide an image.", "refusal"),
        ("Unfortunately I see nothing.", "refusal"),
        ("I’m very sorry, but no.", "refusal"),
        ("i am unable to describe people.", "refusal"),
        ("I cannot help with that.", "refusal"),
        ("As an AI language model, I have no eyes.", "refusal"),
        ("As an AI, this is hard.", "refusal"),
        ("Unfortunately, I see nothing.", "refusal"),
        ("I don’t have access to it.", "refusal"),
        ("Sorry, no.", "refusal"),
        ("The image shows a cat.", "stock_opening"),
        ("This image depicts a cat.", "stock_opening"),
        ("the photograph prominently features a cat.", "stock_opening"),
        ("The image is a photo of a cat.", "stock_opening"),
        ("This is a picture of a cat.", "stock_opening"),
        ("This is a black-and-white photo of a cat.", "stock_opening"),
        ("In this image, a cat sleeps.", "stock_opening"),
        ("The image provided shows a cat.", "stock_opening"),
        ("This black-and-white photo also includes a cat.", "stock_opening"),
        ("The black and white photo appears to show a cat.", "stock_opening"),
        ("An image of a cat.", "stock_opening"),
        ("A cat. please generate a\ndetailed caption of this image", "repeats_prompt"),
        ('The alt text is "cat"', "repeats_prompt"),
        ("一只猫坐在桌子上, a cat.", "garble"),
        ("Кот сидит на столе.", "garble"),
        ("A cat � on a mat.", "garble"),
        ("A cat \x00 on a mat.", "garble"),
        ("A cat \x1b[31m on a mat.", "garble"),
        ("A cat \ue000 on a mat.", "garble"),
    ],
)
def test_a_caption_with_one_flag(caption, expected):
    assert flags(caption) == [expected]


@pytest.mark.parametrize(
    ("caption", "is_cut"),
    [
        ("A cat on a", True),
        ("", True),
        ("A cat. A", True),
        ("A cat.", False),
        ('He says "no."', False),
        ("(A cat!)  ", False),
        ("A dog. 一只猫。", False),
        ("It is **a cat.**", False),
        ("«A cat.»", False),
        ("There are 2.", False),
        ("Animals:\n1. A dog\n2.", True),
        ("At x.com", True),
    ],
)
def test_only_a_caption_at_the_limit_that_ends_within_a_sentence_is_cut(caption, is_cut):
    assert ("cut" in flags(caption, "length")) is is_cut
    assert "cut" not in flags(caption)
    assert flags(caption, "loop") == ["loop"]


def test_a_caption_that_is_cut_within_a_character_is_no_garble():
    assert flags("A cat and a \ufffd", "length") == ["cut"]
    assert flags("A \ufffd and a cat", "length") == ["cut", "garble"]


def test_a_row_without_a_caption_has_none_but_that_of_its_image():
    assert flags(None, "error") == []
    assert flags(None, "error", is_flat=True) == ["flat_color", "placeholder"]


def test_flags_are_in_their_order():
    caption = f"I'm sorry. {LONG} {LONG} \x00 please generate a detailed caption of this image but"
    assert flags(caption, "length", is_flat=True) == [
        *("loop", "cut", "refusal", "repeats_prompt", "garble"),
        *("flat_color", "placeholder"),
    ]


def test_a_prompt_in_other_letters_asks_for_such_captions():
    assert flags("一只猫坐在桌子上。", prompt="请描述这张图片。") == []
    assert flags("一只\x00猫。", prompt="请描述这张图片。") == ["garble"]


@given(st.text(), st.sampled_from(["stop", "length", "loop"]), st.booleans())
def test_whatever_the_caption_flags_are_known_ordered_and_there_once(caption, reason, is_flat):
    found = flags(caption, reason, is_flat=is_flat)
    assert found == [flag for flag in FLAGS if flag in found]
    assert flags(f"  {caption}\n", reason, is_flat=is_flat)[-1:] == found[-1:]


def repeats_words(words: list[str]) -> bool:
    """The rule, word for word: a phrase of at most 24 words three times in a row, eight words in all at least."""
    for period in range(1, 25):
        for start in range(len(words)):
            for end in range(start + max(3 * period, 8), len(words) + 1):
                if all(words[i] == words[i + period] for i in range(start, end - period)):
                    return True
    return False


@given(
    st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), min_size=1, max_size=25), st.data()
)
def test_a_phrase_in_a_loop_is_found_by_its_definition(before, phrase, data):
    times = data.draw(st.integers(1, 9))
    words = [*before, *phrase * times, *phrase[: data.draw(st.integers(0, len(phrase)))]]
    assert is_loop(" ".join(words)) == repeats_words(words)
