"""The same engine on a GPU: float32 with TF32 off says what transformers says; bfloat16 differs only at near ties."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engines import Pair, caption_all, make_pair, random_requests
from recap_fast.errors import ConfigError

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("num_slots", "prefill_images"), [(1, 1), (5, 2), (16, 4)])
def test_captions_equal_transformers(pair: Pair, num_slots: int, prefill_images: int) -> None:
    requests = random_requests(pair, 20, fields=True)
    expected = {r.id: pair.reference(r, []) for r in requests}
    engine = pair.open(device="cuda", stop_ids=[], num_slots=num_slots, prefill_images=prefill_images)
    done = caption_all(engine, requests)
    assert {i: c.token_ids.tolist() for i, c in done.items()} == expected


def test_bfloat16_takes_another_token_only_at_a_near_tie(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, precision="bfloat16")
    requests = random_requests(pair, 32, max_new_tokens=1)
    done = caption_all(pair.open(device="cuda", stop_ids=[], num_slots=16), requests)
    for request in requests:
        with torch.inference_mode():
            logits = pair.model(**pair.inputs(request.pixels, request.text_ids)).logits[0, -1]
        gap = logits.max() - logits[done[request.id].token_ids[0]]
        assert gap < 3e-2 * logits.abs().max()


def test_an_engine_that_does_not_fit_says_by_how_much(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"slots takes \d+\.\d GiB, more than .* has free: lower --num-slots"):
        pair.open(device="cuda", num_slots=10**8)
