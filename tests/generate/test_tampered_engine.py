"""An engine.json with nonsense in any place is refused by the field's name or works; it never crashes or spins."""

import json
import shutil

import pytest
from support.tamper import NONSENSE, places, tampered

from inputs import checkpoints
from inputs.oracle import Pair, random_requests
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import SPEC_FILE

NEAR = {"one more": lambda n: n + 1, "one less": lambda n: n - 1, "twice": lambda n: 2 * n, "half": lambda n: n // 2}
"""Of a number: what its type and its range allow."""
MOST_STEPS = 50


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    checkpoints.make_checkpoint(folder / "checkpoint", text={"rope_parameters": checkpoints.LLAMA31_ROPE})
    build_engine("recap_tiny", folder / "checkpoint", folder / "engine", overwrite=True)
    return folder / "engine"


@pytest.fixture
def copy(engine, tmp_path):
    """A directory whose engine.json may be changed, and what that has."""
    shutil.copytree(engine, tmp_path / "engine")
    return tmp_path / "engine", json.loads((engine / SPEC_FILE).read_text())


def caption(folder) -> int:
    """Opens the engine and captions an image; returns how many tokens that took."""
    prepared = PreparedEngine.read(folder)
    engine = prepared.open(EngineOptions(device="cpu", max_new_tokens=3, num_slots=2))
    engine.submit(random_requests(Pair(prepared, None), 1, max_new_tokens=3))
    for _ in range(MOST_STEPS):
        if done := engine.step():
            return done[0].num_tokens
    raise AssertionError("the caption never ended")


def outcomes(folder, content, changes) -> dict[tuple[str, ...], str]:
    """What came of each change of a place: the refusal, or nothing where an image was captioned."""
    found = {}
    for place, value in changes:
        (folder / SPEC_FILE).write_text(json.dumps(tampered(content, place, value)))
        try:
            assert caption(folder) > 0
            found[place] = ""
        except ConfigError as error:
            found[place] = str(error)
    return found


def checked_places(content):
    """All but what only says where the engine came from; of tensors' checksums a few."""
    return [place for place in places(content, most=20) if place[0] != "sources" or len(place) == 1]


@pytest.mark.parametrize("label", NONSENSE)
def test_nonsense_in_any_place_is_refused_by_name_or_works(copy, label):
    folder, content = copy
    found = outcomes(folder, content, [(place, NONSENSE[label]) for place in checked_places(content)])
    for place, refusal in found.items():
        # an item of a list goes by the name of its list, and a tensor by its own
        names = [str(key) for key in place if not isinstance(key, int)]
        named = any(".".join(names[i:]) in refusal for i in range(len(names))) or "the tensor" in refusal
        assert named or not refusal, (place, refusal)
    works = {place[0] for place, refusal in found.items() if not refusal}
    assert not works & {"format", "backend", "precision", "limits"}


@pytest.mark.parametrize("label", NEAR)
def test_another_number_is_refused_or_works(copy, label):
    folder, content = copy
    changes = []
    for place in checked_places(content):
        value = content
        for key in place:
            value = value[key]
        if type(value) in (int, float):
            changes.append((place, NEAR[label](value)))
    found = outcomes(folder, content, changes)
    assert len(found) > 25
    shapes = ("hidden_size", "intermediate_size", "num_layers", "patch_size", "num_kv_heads", "head_dim", "vocab_size")
    for place, refusal in found.items():
        if place[0] in ("vision", "text") and place[-1] in shapes:
            assert refusal, place
        assert refusal or place != ("format",)


def test_a_tokenizer_of_more_tokens_than_the_embedding_has_rows_is_refused(copy):
    folder, _ = copy
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<new>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"tokenizer.json is not the tokenizer that the engine was built with, by"):
        PreparedEngine.read(folder)
    with pytest.raises(ConfigError, match=r"has 408 tokens and the model's embedding 407 rows"):
        PreparedEngine.read(folder, verify=False)


@pytest.mark.parametrize("content", ["", "[]", "[" * 10**5, '{"format": ' + "1" * 5000 + "}", "\ufeff{}", "nan", "\0"])
def test_what_is_no_engine_json_is_refused(copy, content):
    folder, _ = copy
    (folder / SPEC_FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"engine\.json "):
        PreparedEngine.read(folder)
