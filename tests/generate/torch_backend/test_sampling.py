"""Sampling beside its definition, and the random numbers' independence of everything but their names."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tolerance import EXP_ROUNDINGS, unit

from recap_fast.errors import ConfigError
from recap_fast.generate.engine import Sampling
from recap_fast.generate.torch_backend import sampling as sampling_module
from recap_fast.generate.torch_backend.sampling import LIKELIEST, choose, interval, is_long, sample, uniforms


def chosen_slowly(logits: np.ndarray, sampling: Sampling, noise: float) -> int:
    """The definition, one row, in float64: sort, keep the likeliest, walk up the cumulative distribution."""
    scaled = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")[: sampling.top_k or len(logits)]
    p = np.exp(scaled[order] - scaled[order].max())
    p /= p.sum()
    keep = np.cumsum(p) - p < sampling.top_p
    p = np.where(keep, p, 0)
    return int(order[np.searchsorted(np.cumsum(p), noise * p.sum(), side="right")])


def choices(logits: np.ndarray, sampling: Sampling, noise: float) -> set[int]:
    """By the definition, with the noise and `top_p` moved by what cumulative sums in float32 may be off."""
    scaled = np.abs(logits).max() / sampling.temperature  # an exponential's argument is rounded twice
    error = (len(logits) + 4 * scaled + EXP_ROUNDINGS) * unit(torch.float32)
    return {
        chosen_slowly(logits, dataclasses.replace(sampling, top_p=top_p), max(0.0, u))
        for u in (noise - error, noise, noise + error)
        for top_p in {sampling.top_p - error, min(1.0, sampling.top_p + error)}
    }


@given(
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 20]),
    top_p=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
)
def test_equals_the_definition(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    rng = np.random.default_rng(seed)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    steps = np.stack([rng.choice(4096, 40, replace=False) for _ in range(5)])
    logits = (steps / 512 - 4).astype(np.float32)  # no two are so near that their order is in doubt
    noise = rng.integers(1, 2**20, 5).astype(np.float32) / 2**20 * 0.999
    got = choose(torch.from_numpy(logits), sampling, torch.from_numpy(noise)).tolist()
    for row, u, token in zip(logits, noise, got, strict=True):
        assert token in choices(row, sampling, float(u))


@given(seed=st.integers(0, 2**31), top_k=st.sampled_from([0, 3]), top_p=st.sampled_from([0.5, 1.0]))
def test_a_token_is_drawn_by_the_numbers_of_its_interval(seed: int, top_k: int, top_p: float) -> None:
    sampling = Sampling(temperature=0.7, top_k=top_k, top_p=top_p)
    logits = np.random.default_rng(seed).normal(size=20).astype(np.float32)
    found = {token: interval(logits, sampling, token) for token in range(20)}
    ends = sorted(ends for ends in found.values() if ends is not None)
    assert [start for start, _ in ends] == [0.0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == 1.0
    for token, drawing in found.items():
        if drawing is not None and drawing[1] - drawing[0] > 1e-5:
            middle = torch.tensor([sum(drawing) / 2])
            assert choose(torch.from_numpy(logits)[None], sampling, middle).tolist() == [token]


@given(seed=st.integers(0, 2**31), top_p=st.sampled_from([0.1, 0.5, 0.95]), likeliest=st.sampled_from([1, 2, 4]))
def test_a_long_vocabulary_equals_the_definition(seed: int, top_p: float, likeliest: int) -> None:
    """The likeliest tokens are looked at first, and all of them only for the rows where these do not reach top-p."""
    rng = np.random.default_rng(seed)
    sampling = Sampling(temperature=0.6, top_p=top_p)
    logits = np.stack([rng.permutation(40) for _ in range(6)]).astype(np.float32) / np.float32(8)
    logits[:3] *= np.float32(0.1)
    noise = rng.integers(1, 2**20, 6).astype(np.float32) / 2**20 * 0.999
    with mock.patch.object(sampling_module, "LIKELIEST", likeliest):
        got = choose(torch.from_numpy(logits), sampling, torch.from_numpy(noise)).tolist()
        for row, u, token in zip(logits, noise, got, strict=True):
            assert token in choices(row, sampling, float(u))
            assert choose(torch.from_numpy(row)[None], sampling, torch.tensor([u])).tolist() == [token]
            drawn_by = interval(row, sampling, token)
            assert drawn_by is not None
            assert drawn_by[0] - 1e-5 <= u < drawn_by[1] + 1e-5


def test_only_top_p_of_a_long_vocabulary_looks_at_the_likeliest_first() -> None:
    logits = torch.zeros(1, 8 * LIKELIEST + 1)
    assert is_long(logits, Sampling(temperature=0.6, top_p=0.9))
    assert not is_long(logits[:, 1:], Sampling(temperature=0.6, top_p=0.9))
    assert not is_long(logits, Sampling(temperature=0.6))
    assert not is_long(logits, Sampling(temperature=0.6, top_p=0.9, top_k=50))


def test_a_graph_that_cannot_look_again_draws_among_the_likeliest() -> None:
    """Of the rows where these do not reach top-p; of all others it draws what it would draw anyway."""
    logits = torch.stack([torch.arange(4000.0) / 4, torch.arange(4000.0) / 40_000])
    sampling, noise = Sampling(temperature=0.6, top_p=0.9), torch.tensor([0.99, 0.99])
    with mock.patch.object(sampling_module, "LIKELIEST", 100):
        again, once = (sample(logits, sampling, noise, looks_again=looks).tolist() for looks in (True, False))
    assert again[0] == once[0]
    assert again[1] < 4000 - 100 <= once[1]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    assert choose(logits, Sampling(), None).tolist() == [1, 0]


def test_numbers_depend_on_their_names_alone() -> None:
    keys, counters = [5, 2**63 + 1, -3], np.array([0, 7, 7])
    together = uniforms(9, keys, counters)
    alone = [float(uniforms(9, [k], np.array([c]))[0]) for k, c in zip(keys, counters, strict=True)]
    assert together.tolist() == alone
    assert len({*alone, *uniforms(8, keys, counters).tolist(), *uniforms(9, keys, counters + 1).tolist()}) == 9
    assert together.dtype == np.float32


def test_numbers_are_uniform() -> None:
    numbers = uniforms(1, [123] * 50_000, np.arange(50_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.histogram(numbers, 10, (0, 1))[0] == pytest.approx(5000, abs=300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, r"--temperature -1.0: give 0 \(greedy\)"),
        ({"top_p": 0.0}, "--top-p 0.0: give a number above 0"),
        ({"top_k": -2}, "--top-k -2: give a count"),
        ({"top_k": 5}, r"--top-k and --top-p need --temperature above 0"),
        ({"top_p": 0.9}, r"--top-k and --top-p need --temperature above 0"),
    ],
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)
