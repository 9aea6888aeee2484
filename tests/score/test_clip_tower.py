"""A tower's one row against transformers' own layers, which compute all rows."""

import pytest
import torch
import transformers

from recap_fast.score.clip_tower import Tower


@pytest.fixture(params=[1, 3])
def model(request):
    size = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 3, "num_hidden_layers": request.param}
    torch.manual_seed(0)
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**size, vocab_size=30)).eval().double()


def whole(encoder, rows, is_causal):
    """All rows of all layers, by attention written out."""
    for layer in encoder.layers:
        attention, normal = layer.self_attn, layer.layer_norm1(rows)
        split = [
            part(normal).unflatten(-1, (3, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        weights = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5
        if is_causal:
            weights = weights + torch.full_like(weights[0, 0], -torch.inf).triu(1)
        seen = (weights.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)
        rows = rows + attention.out_proj(seen)
        rows = rows + layer.mlp(layer.layer_norm2(rows))
    return rows


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_row_that_is_read_is_that_of_the_whole(model, is_causal, length):
    encoder = getattr(model, "text_model", model).encoder  # transformers 4 has one module more
    rows = torch.randn(5, length, 48, dtype=torch.float64)
    place = torch.randint(0, length, (5,))
    with torch.inference_mode():
        found = Tower(encoder.layers, 3).read(rows, place, is_causal=is_causal)
        expected = whole(encoder, rows, is_causal)[torch.arange(5), place]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_what_comes_behind_the_row_does_not_matter_in_a_causal_tower(model):
    encoder = getattr(model, "text_model", model).encoder
    rows, place = torch.randn(2, 8, 48, dtype=torch.float64), torch.tensor([3, 5])
    other = rows.clone()
    other[0, 4:], other[1, 6:] = 7.0, -7.0
    tower = Tower(encoder.layers, 3)
    with torch.inference_mode():
        found, again = (tower.read(each, place, is_causal=True) for each in (rows, other))
    torch.testing.assert_close(found, again, rtol=1e-12, atol=1e-12)
