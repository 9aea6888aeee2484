"""The engine says what transformers says, token for token, whatever the slots, the order and the neighbors."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from support import exact_model, tolerance
from support.engines import caption_all
from support.tolerance import assert_within, exact

from inputs import checkpoints
from inputs.oracle import Pair, make_pair, random_requests
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import EngineOptions, Sampling
from recap_fast.generate.ops import plain
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.torch_backend import runner, step
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.generate.torch_backend.llama import Llama, Prefill
from recap_fast.generate.torch_backend.step import Step
from recap_fast.generate.vision.loading import load_weights
from recap_fast.generate.vision.tower import VisionTower
from recap_fast.records import Request

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
SHAPES = {
    "grouped_heads": {},
    "one_kv_head": {"text": {"num_key_value_heads": 1}},
    "no_groups_tied": {"text": {"num_key_value_heads": 4, "tie_word_embeddings": True}},
    "wide_heads": {"text": {"head_dim": 32}},
    "llama31_rope": {
        "text": {"rope_parameters": {**checkpoints.LLAMA31_ROPE, "original_max_position_embeddings": 32}},
    },
    "one_layer_each": {"text": {"num_hidden_layers": 1}, "vision": {"num_hidden_layers": 2}},
    "gelu_crop": {"vision": {"hidden_act": "gelu"}, "preprocess": "crop"},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def references(pair: Pair) -> dict[int, list[int]]:
    """transformers' captions of twenty requests, which nothing stops."""
    return {r.id: pair.reference(r, []) for r in random_requests(pair, 20, fields=True)}


def frequent_tokens(captions: list[list[int]], count: int) -> list[int]:
    """Ids that many captions hold: as stop ids they end them at many different lengths."""
    ids, counts = np.unique(np.concatenate(captions), return_counts=True)
    return ids[np.argsort(-counts, kind="stable")][:count].tolist()


def step_of(engine: TorchEngine) -> Step:
    return engine._runner._step


@pytest.mark.parametrize("shape", SHAPES)
def test_captions_equal_transformers(shape: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, **SHAPES[shape])
    requests = random_requests(pair, 8, fields=True)
    unstopped = [pair.reference(r, []) for r in requests]
    assert len({tuple(c) for c in unstopped}) > 4, "the captions must differ for this test to mean something"
    stop_ids = frequent_tokens(unstopped, 2)
    expected = [pair.reference(r, stop_ids) for r in requests]
    assert len({len(c) for c in expected}) > 1, "the captions must end at different lengths"
    for fixed_shapes in (False, True):
        engine = pair.open(stop_ids=stop_ids, num_slots=3, prefill_images=2, fixed_shapes=fixed_shapes)
        done = caption_all(engine, requests)
        assert [done[i].token_ids.tolist() for i in range(8)] == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize(("num_slots", "prefill_images"), [(1, 1), (3, 3), (5, 2), (8, 4), (16, 4), (64, 8)])
def test_captions_do_not_depend_on_the_batch(
    pair: Pair, references: dict[int, list[int]], num_slots: int, prefill_images: int, fixed_shapes: bool, device: str
) -> None:
    requests = random_requests(pair, 20, fields=True)
    stop_ids = frequent_tokens(list(references.values())[:6], 2)
    expected = {i: list(itertools.takewhile(lambda token: token not in stop_ids, c)) for i, c in references.items()}
    order = np.random.default_rng(num_slots).permutation(len(requests))
    sizes = {"num_slots": num_slots, "prefill_images": prefill_images}
    engine = pair.open(device=device, stop_ids=stop_ids, fixed_shapes=fixed_shapes, **sizes)
    done = caption_all(engine, [requests[i] for i in order])
    assert {i: c.token_ids.tolist() for i, c in done.items()} == expected
    assert engine.free_slots == num_slots


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_captions_with_plain_operations(
    pair: Pair, references: dict[int, list[int]], fixed_shapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers are Python's and prompts go through torch's causal attention here, as on a GPU."""

    def make_model(spec: EngineSpec, weights: dict[str, torch.Tensor], num_positions: int, *_: object) -> object:
        tower = VisionTower(spec.vision, spec.preprocess, weights, plain)
        return tower, Llama(spec.text, weights, num_positions, plain)

    monkeypatch.setattr(step, "make_model", make_model)
    requests = random_requests(pair, 10, fields=True)
    engine = pair.open(stop_ids=[], num_slots=4, prefill_images=2, fixed_shapes=fixed_shapes)
    done = caption_all(engine, requests)
    assert {i: c.token_ids.tolist() for i, c in done.items()} == {i: references[i] for i in range(10)}


def test_logits_equal_transformers(pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    engine = pair.open(num_slots=2, prefill_images=1)
    seen: list[torch.Tensor] = []
    llama = step_of(engine)._llama
    forward = llama.forward
    llama.forward = lambda *args: seen.append(forward(*args)) or seen[-1]  # type: ignore[method-assign]
    caption = caption_all(engine, [dataclasses.replace(request, max_new_tokens=6)])[0].token_ids
    inputs = pair.inputs(request.pixels, np.concatenate([request.text_ids, caption[:-1]]))
    with torch.inference_mode():
        expected = pair.model(**inputs).logits[0, -6:]
    weights = load_weights(pair.folder / WEIGHTS_FILE, pair.spec, torch.device("cpu"))
    image = exact_model.encode(pair.spec.vision, pair.spec.preprocess, weights, torch.from_numpy(request.pixels)[None])
    texts = pair.prompts.prefix_ids.tolist(), [*request.text_ids, *caption[:-1]]
    before, after = (exact(llama.embed(torch.tensor(ids))) for ids in texts)
    x = tolerance.join([before, image[0], after])
    length = len(x.value)  # as six prompts, each read at another row
    places = torch.arange(6), 0, length, torch.arange(6) * (length + 1) + length - 6
    text = pair.spec.text
    cache = torch.zeros(text.num_layers, 2, 6, text.num_kv_heads, length, text.head_dim)
    logits, _ = exact_model.decode(text, weights, tolerance.join([x] * 6), cache, Prefill(*places), None)
    assert_within(torch.cat(seen), logits)
    assert_within(expected, logits)


def test_limits_are_per_request(pair: Pair) -> None:
    requests = [dataclasses.replace(r, max_new_tokens=1 + r.id) for r in random_requests(pair, 9)]
    done = caption_all(pair.open(stop_ids=[], num_slots=4, prefill_images=2), requests)
    for request in requests:
        assert done[request.id].token_ids.tolist() == pair.reference(request, [])
        assert done[request.id].finish_reason == "length"
        assert done[request.id].num_tokens == 1 + request.id


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_sampled_captions_do_not_depend_on_neighbors_or_slots(pair: Pair, fixed_shapes: bool) -> None:
    requests = random_requests(pair, 12, fields=True)
    sampling = Sampling(temperature=1.0, top_k=50, top_p=0.9, seed=3)
    alone = {
        r.id: caption_all(pair.open(num_slots=1, stop_ids=[], sampling=sampling), [r])[r.id].token_ids.tolist()
        for r in requests
    }
    engine = pair.open(num_slots=5, prefill_images=2, stop_ids=[], sampling=sampling, fixed_shapes=fixed_shapes)
    together = caption_all(engine, requests[::-1])
    assert {i: c.token_ids.tolist() for i, c in together.items()} == alone
    other = caption_all(pair.open(num_slots=5, stop_ids=[], sampling=dataclasses.replace(sampling, seed=4)), requests)
    assert sum(other[i].token_ids.tolist() == alone[i] for i in alone) < 3


def test_loop_is_ended_early_and_its_repetition_dropped(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    requests = random_requests(pair, 6, max_new_tokens=100)
    endless = caption_all(pair.open(stop_ids=[], num_slots=4), requests)
    stopped = caption_all(pair.open(stop_ids=[], num_slots=4, loop_stop=True), requests)
    loops = [c for c in stopped.values() if c.finish_reason == "loop"]
    assert loops, "random models fall into loops"
    for completion in stopped.values():
        whole = endless[completion.id].token_ids.tolist()
        assert whole[: len(completion.token_ids)] == completion.token_ids.tolist()
        if completion.finish_reason == "loop":
            assert len(completion.token_ids) < completion.num_tokens < 100
        else:
            assert completion.token_ids.tolist() == whole


def test_requests_over_the_limits_are_refused(pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    engine = pair.open(num_slots=1, max_new_tokens=8)
    with pytest.raises(ValueError, match="request 0: 24 new tokens, the engine makes 1 to 8"):
        engine.submit([request])
    limit = pair.spec.limits.max_text_tokens
    with pytest.raises(ValueError, match=f"request 0: {limit + 1} text tokens, the engine takes {limit}"):
        engine.submit([dataclasses.replace(request, text_ids=np.zeros(limit + 1, np.int32))])
    short = dataclasses.replace(request, max_new_tokens=2)
    with pytest.raises(ValueError, match="2 requests given, 1 slots are free"):
        engine.submit([short, short])


def test_more_slots_than_memory_are_refused(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"An engine of 10{9} slots .* does not fit .*: lower --num-slots"):
        pair.open(num_slots=10**9)


def test_captions_longer_than_the_model_are_refused(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"--max-new-tokens 5000 does not fit: .*, or a shorter prompt"):
        pair.open(max_new_tokens=5000)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA error: illegal access"), "the torch engine failed: CUDA error: illegal access"),
        (MemoryError("std::bad_alloc"), "std::bad_alloc Lower --num-slots or --prefill-images"),
    ],
)
def test_a_failing_device_stops_the_engine(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    engine = pair.open(num_slots=1)
    engine.submit(random_requests(pair, 1))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(step_of(engine)._llama, "forward", fail)
    with pytest.raises(EngineError, match=message):
        engine.step()


@pytest.mark.parametrize("name", ["num_slots", "prefill_images", "max_new_tokens"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} 0: give a count of at least 1"):
        EngineOptions(**{name: 0})


def test_idle_engine_steps_to_nothing(pair: Pair) -> None:
    engine = pair.open(num_slots=2)
    assert engine.step() == []
    assert engine.describe().startswith("torch ")
    engine.submit([Request(7, np.zeros((3, 32, 32), np.uint8), pair.prompts.text_ids({})[0], 1)])
    assert [c.id for c in engine.step()] == [7]
    engine.close()


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_images_wait_for_others_where_a_prefill_takes_as_long_with_few(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, fixed_shapes: bool
) -> None:
    engine = pair.open(stop_ids=[], num_slots=6, prefill_images=2, fixed_shapes=fixed_shapes)
    joined: list[int] = []
    start = engine._runner.start
    monkeypatch.setattr(
        engine._runner, "start", lambda launch, noise: [joined.append(len(launch.requests)), start(launch, noise)]
    )
    for request in random_requests(pair, 4):
        engine.submit([request])
        engine.step(more=True)
    engine.step()  # nothing more comes
    assert joined == ([1, 0, 2, 0, 1] if fixed_shapes else [1, 1, 1, 1, 0])


def test_statistics_count_what_was_done(pair: Pair) -> None:
    engine = pair.open(stop_ids=[], num_slots=2, prefill_images=2)
    requests = [dataclasses.replace(r, max_new_tokens=1 + 3 * r.id) for r in random_requests(pair, 2)]
    caption_all(engine, requests)
    counts, text = engine.statistics, len(requests[0].text_ids)
    prompt = len(pair.prompts.prefix_ids) + pair.spec.vision.num_image_tokens + text
    assert (counts.mixed_steps, counts.decode_steps, counts.images, counts.decode_rows) == (1, 3, 2, 3)
    assert counts.prompt_tokens == 2 * (pair.spec.vision.num_image_tokens + text)
    assert counts.kv_positions == counts.decode_step_kv_positions == 3 * prompt + 1 + 2 + 3
    assert counts.mixed_s > 0
    assert counts.decode_s > 0
    assert counts.idle_s["host"] > 0
    assert set(counts.startup_s) == {"weights", "prefix", "capture"}


def test_device_time_without_requests_is_idle_for_want_of_input(pair: Pair) -> None:
    engine = pair.open(stop_ids=[], num_slots=1)
    for request in random_requests(pair, 2, max_new_tokens=1):
        engine.submit([request])
        engine.step()
    assert engine.statistics.idle_s["input"] > 0
    assert engine.statistics.idle_s["host"] == 0


def test_a_step_has_the_threads_of_a_quota_and_torch_gets_its_own_back(pair: Pair, monkeypatch) -> None:
    monkeypatch.setattr(runner, "num_cpu_threads", lambda: 3)
    before, engine = torch.get_num_threads(), pair.open(num_slots=1)
    seen, run = [], step_of(engine).run
    monkeypatch.setattr(step_of(engine), "run", lambda *given: [seen.append(torch.get_num_threads()), run(*given)][1])
    engine.submit(random_requests(pair, 1))
    engine.step()
    assert (seen, torch.get_num_threads()) == ([3], before)
