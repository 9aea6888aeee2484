"""The engine against the strict fake: the torch backend's captions, in any order, and every rule of the library kept.

A fake shows that we call what was recorded, and that ids, tables, stop rules and bookkeeping are right; not that the
library does what was recorded.
"""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from support.engines import caption_all
from support.tensorrt_fixtures import write_recipe

from contest.engines import make_job, put_images
from contest.peers.recap_fast import RecapFast
from contest.peers.tensorrt_llm import TensorRTLLM
from inputs.oracle import make_pair, random_requests
from recap_fast.bench.tune import tune
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import Sampling
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend import engine as backend

pytestmark = pytest.mark.usefixtures("gpu")


def expected(pair, requests, *, stop_ids=None, **options):
    engine = pair.open(stop_ids=stop_ids, **options)
    done = caption_all(engine, requests)
    engine.close()
    return done


def said(done):
    return {i: (c.token_ids.tolist(), c.finish_reason, c.num_tokens) for i, c in done.items()}


@pytest.mark.parametrize("empty_polls", [0, 3])
def test_captions_are_the_torch_backends(empty_polls, library, pair, build, open_engine):
    library(empty_polls=empty_polls)
    requests = random_requests(pair, 11, fields=True)
    assert said(caption_all(open_engine(build()), requests)) == said(expected(pair, requests))


@pytest.mark.parametrize("strategy", ["full", "default"])
def test_captions_on_a_siglip_tower_are_the_torch_backends(strategy, fake, build, open_engine, tmp_path):
    siglip = make_pair(
        tmp_path / "siglip",
        recipe=str(write_recipe(tmp_path)),
        vision={"model_type": "siglip_vision_model", "image_size": 37},
        llava={"vision_feature_select_strategy": strategy},
        preprocess="stretch",
    )
    requests = random_requests(siglip, 5)
    engine = open_engine(build(checkpoint=tmp_path / "siglip/checkpoint"))
    assert said(caption_all(engine, requests)) == said(expected(siglip, requests))
    (rows,) = {len(call["embedding_table"]) for call in fake.calls("PromptTuningConfig")}
    assert rows == siglip.spec.vision.num_image_tokens == 16 - (strategy == "default")


@pytest.mark.parametrize("count", [3, 0])
def test_stop_ids_end_a_caption_and_are_not_in_it(count, fake, pair, build, open_engine):
    """Without any, captions have their length."""
    requests = random_requests(pair, 6)
    free = expected(pair, requests, stop_ids=[])
    stops = tuple(sorted({int(c.token_ids[3 + i]) for i, c in free.items()})[:count])
    folder = build()
    dataclasses.replace(EngineSpec.load(folder), stop_ids=stops).save(folder)
    truth = said(expected(pair, requests, stop_ids=stops))
    assert ("stop" in {reason for _, reason, _ in truth.values()}) == bool(stops)
    assert said(caption_all(open_engine(folder), requests)) == truth


def test_what_every_request_says(fake, pair, build, open_engine):
    requests = random_requests(pair, 5)
    engine = open_engine(build())
    caption_all(engine, requests)
    vocab, image, width = pair.spec.text.vocab_size, pair.spec.vision.num_image_tokens, pair.spec.text.hidden_size
    calls = fake.calls("Request")
    assert sorted(call["client_id"] for call in calls) == [r.id for r in requests]
    for call in calls:
        text_ids = next(r.text_ids for r in requests if r.id == call["client_id"])
        ids = [*pair.prompts.prefix_ids, *range(vocab, vocab + image), *text_ids]
        assert call["input_token_ids"] == ids
        assert call["max_tokens"] == 24
        assert call["output_config"].exclude_input_from_output is True
        assert call["sampling_config"].top_k == 1
        assert [*(word for (word,) in call["stop_words"] or []), call["end_id"]] == list(pair.spec.stop_ids)
        assert call["streaming"] is False
        table = call["prompt_tuning_config"].embedding_table
        assert (table.shape, table.dtype, table.is_contiguous()) == ((image, width), torch.float32, True)
    (given,) = fake.calls("Executor")
    config = given["executor_config"]
    assert config.kv_cache_config.enable_block_reuse is False
    assert config.enable_chunked_context is False
    assert config.max_batch_size == 4


def test_tables_have_the_models_type(fake, pair, build, open_engine):
    engine = open_engine(build(precision="bfloat16"))
    assert len(caption_all(engine, random_requests(pair, 3))) == 3
    assert {c["embedding_table"].dtype for c in fake.calls("PromptTuningConfig")} == {torch.bfloat16}


def test_a_bounded_number_is_in_flight(fake, pair, build, open_engine):
    engine = open_engine(build(), num_slots=2)
    requests = random_requests(pair, 5)
    assert engine.free_slots == 4
    engine.submit(requests[:4])
    assert engine.free_slots == 0
    with pytest.raises(ValueError, match="0 slots are free"):
        engine.submit(requests[4:])
    done = []
    while len(done) < 4:
        done += engine.step()
        assert engine.free_slots == len(done)


def test_pixels_may_be_a_tensor_on_the_device(fake, pair, build, open_engine):
    requests = random_requests(pair, 3)
    tensors = [dataclasses.replace(r, pixels=torch.from_numpy(r.pixels)) for r in requests]
    assert said(caption_all(open_engine(build()), tensors)) == said(expected(pair, requests))


@pytest.mark.parametrize(("failing", "count"), [((1, 4), 7), ((0, 1, 2), 3)])
def test_a_failed_request_is_a_completion_with_the_reason(failing, count, library, pair, build, open_engine):
    library(failing=failing)
    requests = random_requests(pair, count)
    done = caption_all(open_engine(build()), requests)
    truth = said(expected(pair, requests))
    failed = {i: c for i, c in done.items() if c.error is not None}
    assert len(failed) == len(failing)
    assert all("told to fail" in c.error and c.finish_reason == "error" for c in failed.values())
    assert all(said(done)[i] == truth[i] for i in done.keys() - failed.keys())


def test_failures_of_all_in_flight_do_not_hold_up_what_is_in_line(library, pair, build, open_engine):
    library(failing=(0, 1, 2, 3))
    engine = open_engine(build())
    engine.submit(random_requests(pair, 5))  # the fifth waits for a second one, or for a place in the batch
    done = []
    while len(done) < 5:
        done += engine.step()
    assert [c.error is None for c in sorted(done, key=lambda c: c.id)] == [False] * 4 + [True]


@pytest.mark.parametrize("num_slots", [1, 4])
def test_failures_without_end_are_a_broken_engine(num_slots, library, pair, build, open_engine):
    library(failing=tuple(range(2, 40)))
    engine = open_engine(build(), num_slots=num_slots)
    with pytest.raises(EngineError, match="8 requests failed one after the other"):
        caption_all(engine, random_requests(pair, 40))


@pytest.mark.parametrize("silently", [False, True])
def test_an_executor_that_dies_is_an_engine_error(silently, library, pair, build, open_engine, monkeypatch):
    monkeypatch.setattr(backend, "STALL_S", 0.5)
    library(dies_after=3, dies_silently=silently)
    engine = open_engine(build())
    with pytest.raises(EngineError, match=r"died|no requests any more|has not answered|one after the other"):
        caption_all(engine, random_requests(pair, 30))


def test_sampling_is_passed_on(fake, pair, build, open_engine):
    engine = open_engine(build(), sampling=Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3))
    caption_all(engine, random_requests(pair, 2))
    configs = [call["sampling_config"] for call in fake.calls("Request")]
    assert {(c.temperature, c.top_k, c.top_p) for c in configs} == {(0.7, 5, 0.9)}
    assert len({c.seed for c in configs}) == 2


def test_all_tokens_are_drawn_from_where_there_is_no_top_k(fake, pair, build, open_engine):
    requests = random_requests(pair, 4)
    drawn = caption_all(open_engine(build(), sampling=Sampling(temperature=5.0, seed=1)), requests)
    assert said(drawn) != said(expected(pair, requests))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_slots": 5}, "--num-slots 5, built for 4"),
        ({"max_new_tokens": 25}, "--max-new-tokens"),
        ({"prompts": ["Why? " * 200]}, "prompt, in tokens"),
    ],
)
def test_what_is_over_the_built_limits_is_refused(options, reason, fake, build, open_engine):
    with pytest.raises(ConfigError, match=reason):
        open_engine(build(), **options)


def test_lengths_are_checked_before_submission(fake, pair, build, open_engine):
    engine = open_engine(build())
    (request,) = random_requests(pair, 1)
    long = np.zeros(pair.spec.limits.max_text_tokens + 1, np.int32)
    with pytest.raises(ValueError, match="text tokens"):
        engine.submit([dataclasses.replace(request, text_ids=long)])
    with pytest.raises(ValueError, match="new tokens"):
        engine.submit([dataclasses.replace(request, max_new_tokens=25)])
    assert fake.calls("Request") == []


def test_statistics_are_those_of_the_torch_engine(fake, pair, build, open_engine):
    requests = random_requests(pair, 5)
    engine, reference = open_engine(build()), pair.open()
    caption_all(engine, requests)
    caption_all(reference, requests)
    for name in ("images", "prompt_tokens", "decode_rows", "kv_positions"):
        assert getattr(engine.statistics, name) == getattr(reference.statistics, name), name


def test_there_is_nothing_to_tune(fake, build):
    with pytest.raises(ConfigError, match="fixed when it was built"):
        tune(build(), "cpu")


def test_describe_names_version_and_card(fake, build, open_engine):
    line = open_engine(build()).describe()
    assert all(part in line for part in ("tensorrt-llm 1.2.1", "H100", "float32", "4 slots"))


def test_as_a_contestant_it_says_what_the_torch_backend_says(fake, pair, tmp_path):
    lengths, said_by = [4, 9, 6], []
    put_images(tmp_path, len(lengths), [(48, 40)])
    job = make_job(tmp_path, pair.folder.parent / "checkpoint", "float32", "llava", None, threads=1, device="cpu")
    for kind in (RecapFast, TensorRTLLM):
        with contextlib.closing(kind(job)) as contestant:
            said_by.append(contestant.run(lengths).captions)
    assert said_by[0] == said_by[1]
    assert list(map(len, said_by[0])) == lengths
