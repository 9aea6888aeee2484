"""Tables of Llama's rotary position embedding."""

import torch

from recap_fast.generate.ops import Rope
from recap_fast.generate.spec import RopeSpec


def rope_table(rope: RopeSpec, head_dim: int, num_positions: int) -> Rope:
    """Cosines and signed sines of every position, float32 [T, E] each, for `ops.plain.rotate`.

    Llama 3 (theta alone) and Llama 3.1, whose low frequencies are slowed by `factor`, those between the two marks
    smoothly so ("rope_type: llama3" of the published configurations).
    """
    inverse = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.factor is not None:
        turns = rope.original_max_positions * inverse / (2 * torch.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clamp(0.0, 1.0)
        inverse = inverse / rope.factor * (1 - smooth) + inverse * smooth
    angles = torch.arange(num_positions).float()[:, None] * inverse
    cos, sin = angles.cos(), angles.sin()
    return Rope(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
