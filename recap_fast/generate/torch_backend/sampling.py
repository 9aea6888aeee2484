"""Choosing the next token. Greedy is an argmax; sampled captions take one uniform number a token.

The number is a pure function of (seed, request, token number), a counter-based generator in the sense of Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), here with the SplitMix64 finaliser as its mixing
function. So a caption does not depend on its neighbors, the slot it sat in, or what was done before a resume.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.generate.engine import Sampling

# Letters: R rows, V vocabulary.


def uniforms(seed: int, keys: Sequence[int], counters: NDArray[np.int64]) -> NDArray[np.float32]:
    """One number in [0, 1) for each (key, counter): float32 [R], with 24 random bits."""
    key = np.array([k & 0xFFFF_FFFF_FFFF_FFFF for k in keys], np.uint64)
    state = _mix(np.full(len(key), seed & 0xFFFF_FFFF_FFFF_FFFF, np.uint64))
    state = _mix(_mix(state ^ key) ^ counters.astype(np.uint64))
    return ((state >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64 bits that looks random."""
    x = x + np.uint64(0x9E37_79B9_7F4A_7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return x ^ (x >> np.uint64(31))


LIKELIEST = 1024
"""Tokens that top-p looks at first. They nearly always reach it, and to find them no vocabulary is sorted: 32 rows of
128,256 take 33 to 44 ms in place of 311 to 337 (two threads of an AMD EPYC), 516 rows 1.4 in place of 9.5 (an H200)."""
NOT_FINITE = -1
"""In the place of a token whose logits are not all finite: the host learns of it with the tokens, without a wait."""


def choose(logits_RV: Tensor, sampling: Sampling, noise_R: Tensor | None) -> Tensor:
    """The next token of each row: int64 [R]; `NOT_FINITE` for a row with a number that is not finite.

    `noise_R` are the uniform numbers, None where sampling is greedy. Sampled: temperature, then top-k, then top-p (the
    smallest set of likeliest tokens that reaches `top_p`, as transformers does it), then the inverse of the cumulative
    distribution at the noise.
    """
    if sampling.is_greedy or noise_R is None:
        if logits_RV.device.type == "cpu":
            # NumPy takes 7 us for 32 rows of 4,096 where torch 2.13 takes 294 (AVX-512, one thread)
            numbers = logits_RV.float().numpy()
            with np.errstate(all="ignore"):  # no warning of NumPy's for infinity less infinity
                is_finite = np.isfinite(numbers.sum(axis=-1))
            return torch.from_numpy(np.where(is_finite, numbers.argmax(axis=-1), NOT_FINITE))
        tokens_R = logits_RV.argmax(dim=-1)
    else:
        tokens_R = sample(logits_RV, sampling, noise_R, looks_again=logits_RV.device.type == "cpu")
    # a sum of finite logits is finite in float32, and any other number makes it infinite or NaN
    is_finite_R = logits_RV.sum(dim=-1, dtype=torch.float32).isfinite()
    return tokens_R.masked_fill(~is_finite_R, NOT_FINITE)


def interval(logits_V: NDArray[np.float32], sampling: Sampling, token: int) -> tuple[float, float] | None:
    """The uniform numbers that draw a token: the first of them and the end; None where none does."""
    logits_1V = torch.from_numpy(logits_V)[None]
    found_1 = _likeliest(logits_1V, sampling) if is_long(logits_1V, sampling) else None
    ids_1K, probabilities_1K = found_1[:2] if found_1 and found_1[2] else _distribution(logits_1V, sampling)
    cumulative_K = probabilities_1K[0].cumsum(dim=-1)
    ends = [0.0, *(cumulative_K / cumulative_K[-1]).tolist()]
    places = (ids_1K[0] == token).nonzero()[:, 0].tolist()
    found = [(ends[place], ends[place + 1]) for place in places if ends[place] < ends[place + 1]]
    return found[0] if found else None


def is_long(logits_RV: Tensor, sampling: Sampling) -> bool:
    """Whether the likeliest tokens are looked at first."""
    return sampling.top_k == 0 and sampling.top_p < 1.0 and logits_RV.shape[-1] > 8 * LIKELIEST


def sample(logits_RV: Tensor, sampling: Sampling, noise_R: Tensor, *, looks_again: bool) -> Tensor:
    """See `choose`. Rows whose `LIKELIEST` tokens do not reach top-p get their whole vocabulary where it `looks_again`.

    A GPU's graph cannot: there they draw among these tokens.
    """
    if not is_long(logits_RV, sampling):
        return _draw(*_distribution(logits_RV, sampling), noise_R)
    ids_RK, probabilities_RK, is_enough_R = _likeliest(logits_RV, sampling)
    tokens_R, rest_R = _draw(ids_RK, probabilities_RK, noise_R), ~is_enough_R
    if looks_again and rest_R.any():  # row by row: what a caption draws does not depend on its neighbors
        tokens_R[rest_R] = _draw(*_distribution(logits_RV[rest_R], sampling), noise_R[rest_R])
    return tokens_R


def _draw(ids_RK: Tensor, probabilities_RK: Tensor, noise_R: Tensor) -> Tensor:
    """The tokens, int64 [R], at which the cumulative distributions pass the noise."""
    cumulative_RK = probabilities_RK.cumsum(dim=-1)
    target_R1 = noise_R[:, None] * cumulative_RK[:, -1:]
    place_R1 = (cumulative_RK <= target_R1).sum(dim=-1, keepdim=True)
    last_R1 = (probabilities_RK > 0).sum(dim=-1, keepdim=True) - 1
    return ids_RK.gather(-1, torch.minimum(place_R1, last_R1).clamp_min(0))[:, 0]  # none is above 0 where one is NaN


def _distribution(logits_RV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens, likeliest first, and their probabilities, 0 for those that cannot be drawn: [R, K] each."""
    k = min(sampling.top_k or logits_RV.shape[-1], logits_RV.shape[-1])
    values_RK, ids_RK = (logits_RV.float() / sampling.temperature).topk(k, dim=-1)
    probabilities_RK = values_RK.softmax(dim=-1)
    before_RK = probabilities_RK.cumsum(dim=-1) - probabilities_RK
    return ids_RK, probabilities_RK.masked_fill(before_RK >= sampling.top_p, 0.0)


def _likeliest(logits_RV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """`_distribution` of the `LIKELIEST` tokens, [R, K] each, and whether it is all: bool [R]."""
    scaled_RV = logits_RV.float() / sampling.temperature
    values_RK, ids_RK = scaled_RV.topk(LIKELIEST, dim=-1)
    probabilities_RK = (values_RK - scaled_RV.logsumexp(dim=-1, keepdim=True)).exp()
    sums_RK = probabilities_RK.cumsum(dim=-1)
    is_out_RK = sums_RK - probabilities_RK >= sampling.top_p
    return ids_RK, probabilities_RK.masked_fill(is_out_RK, 0.0), sums_RK[:, -1] >= sampling.top_p
