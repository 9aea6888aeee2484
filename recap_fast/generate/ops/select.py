"""Which implementation of the operations a device gets. C++ and Triton are imported where they are used."""

import logging

import torch

from recap_fast.generate.ops import Ops, plain

logger = logging.getLogger(__name__)


def select_ops(device: torch.device, dtype: torch.dtype) -> Ops:
    """The fastest implementation for a device and the model's precision."""
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        from recap_fast.generate.ops import cpp

        return cpp
    if device.type == "cuda":
        try:
            from recap_fast.generate.ops import triton
        except ImportError as error:
            logger.warning("Triton cannot be imported (%s): the torch engine runs without its fused kernels.", error)
        else:
            return triton
    return plain
