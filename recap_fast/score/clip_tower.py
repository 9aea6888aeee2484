"""A tower of CLIP with the weights of transformers' model: the same numbers, with less work.

Only one row of a tower's last layer is read: the class token's of an image, the end mark's of a text. So that layer
computes keys and values for all rows and everything else for that row. Queries, keys and values are one product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class _Layer:
    """A pre-norm transformer layer."""

    norm1: Callable[[Tensor], Tensor]
    weight: Tensor
    """The weights of queries, keys and values: [3 * width, width]."""
    bias: Tensor
    project: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


class Tower:
    """The layers of a tower."""

    def __init__(self, layers: Any, num_heads: int):
        """`layers`: those of `CLIPEncoder`."""
        self._num_heads = num_heads
        self._layers = [_fuse(layer) for layer in layers]

    def read(self, rows: Tensor, place: Tensor, *, is_causal: bool) -> Tensor:
        """What comes of one row of each of n sequences: `rows` are [n, length, width], `place` [n], out go [n, width].

        `is_causal`: a row sees no row behind it; what comes behind `place` cannot matter then.
        """
        for layer in self._layers[:-1]:
            queries, keys, values = self._split(F.linear(layer.norm1(rows), layer.weight, layer.bias), 3)
            seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal)
            rows = rows + layer.project(seen.transpose(1, 2).flatten(2))
            rows = rows + layer.mlp(layer.norm2(rows))
        return self._read_last(rows, place, is_causal)

    def _read_last(self, rows: Tensor, place: Tensor, is_causal: bool) -> Tensor:
        layer, width = self._layers[-1], rows.shape[-1]
        normal, each = layer.norm1(rows), torch.arange(len(rows), device=rows.device)
        keys, values = self._split(F.linear(normal, layer.weight[width:], layer.bias[width:]), 2)
        (query,) = self._split(F.linear(normal[each, place][:, None], layer.weight[:width], layer.bias[:width]), 1)
        mask = None
        if is_causal:
            mask = (torch.arange(rows.shape[1], device=rows.device) <= place[:, None])[:, None, None]
        seen = F.scaled_dot_product_attention(query, keys, values, mask)
        row = rows[each, place] + layer.project(seen.flatten(1))
        return row + layer.mlp(layer.norm2(row))

    def _split(self, product: Tensor, number: int) -> tuple[Tensor, ...]:
        """[n, length, number * width] as so many of [n, heads, length, width of a head]."""
        heads = product.view(*product.shape[:2], number, self._num_heads, -1)
        return tuple(heads.permute(2, 0, 3, 1, 4))


def _fuse(layer: Any) -> _Layer:
    attention = layer.self_attn
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    weight, bias = (
        torch.cat([part.weight for part in parts]).detach(),
        torch.cat([part.bias for part in parts]).detach(),
    )
    return _Layer(layer.layer_norm1, weight, bias, attention.out_proj, layer.layer_norm2, layer.mlp)
