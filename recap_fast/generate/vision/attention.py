"""Attention of images: torch's own, with cuDNN's kernel first on Hopper, where it is about twice as fast as the others.

cuDNN may refuse a shape as late as in the first call, and has returned wrong numbers without an error on other cards
(https://github.com/pytorch/pytorch/issues/193893). So each shape is tried once, on random numbers, beside torch's
flash attention: in the runs before a graph is captured.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from recap_fast.generate.device import disabled_kernels

logger = logging.getLogger(__name__)

OTHERS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
TOLERANCE = 0.02
"""Largest difference of the two results, over the largest magnitude: some roundings to bfloat16."""

Attend = Callable[[list[SDPBackend], Tensor, Tensor, Tensor], Tensor]


def attend_by(backends: list[SDPBackend], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By the first of these backends that takes the shapes. Raises RuntimeError where none does, or one fails."""
    with sdpa_kernel(backends, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v)


class ImageAttention:
    """Attention without a mask: queries, keys, values and outputs are [images, heads, rows, width of a head]."""

    def __init__(self, device: torch.device, attend: Attend = attend_by):
        """Tests replace `attend` where there is no cuDNN."""
        is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
        self._prefers_cudnn = is_hopper and "cudnn-attention" not in disabled_kernels()
        self._attend = attend
        self.rejected: dict[tuple[int, ...], str] = {}
        """Shapes that cuDNN's attention is not used for, and why."""
        self._tried: set[tuple[int, ...]] = set()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._prefers_cudnn or q.dtype == torch.float32:
            return F.scaled_dot_product_attention(q, k, v)
        shape = tuple(q.shape)
        if shape not in self._tried:
            self._tried.add(shape)
            self._try_cudnn(q)
        first = [] if shape in self.rejected else [SDPBackend.CUDNN_ATTENTION]
        return self._attend([*first, *OTHERS], q, k, v)

    def _try_cudnn(self, like: Tensor) -> None:
        """Compares cuDNN's attention with torch's flash attention at this shape, dtype and layout."""
        numbers = [like.new_empty_strided(like.shape, like.stride()).normal_() for _ in range(3)]
        expected = self._attend(OTHERS, *numbers).float()
        try:
            got = self._attend([SDPBackend.CUDNN_ATTENTION], *numbers).float()
            distance = float((got - expected).abs().max() / expected.abs().max())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = f"refused: {error}"
        else:
            if distance <= TOLERANCE:
                return
            reason = f"off by {distance:.1%}"
        logger.info("cuDNN's attention is not used for %s: %s", tuple(like.shape), reason)
        self.rejected[tuple(like.shape)] = reason
