"""One step on the device: uint8 pixels and token ids in, the next token of every caption out.

The vision tower, the projector, the decoder and the choice of the tokens are one function of tensors, without a look
at any of their values. So it runs as it is with as many rows as there are (a CPU), or with constant shapes and
addresses as a CUDA graph; see runner.py and fixed_runner.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recap_fast.generate.engine import Sampling
from recap_fast.generate.ops import Rows, cuda
from recap_fast.generate.ops.linear import refused_products
from recap_fast.generate.ops.select import select_ops
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.torch_backend.llama import KVCache, Llama, Prefill
from recap_fast.generate.torch_backend.sampling import choose
from recap_fast.generate.vision.tower import VisionTower

if TYPE_CHECKING:
    from recap_fast.generate.torch_backend.cpp_model import CppLlama, CppTower

# Letters: n images or branches joining, S width of their text, P prefix length, N image tokens, B running captions.


@dataclass(frozen=True, slots=True)
class Joining:
    """The images of a step."""

    pixels: Tensor
    """uint8 [n, 3, H, W]."""
    text_ids: Tensor
    """int64 [n, S], padded."""
    slots: Tensor
    """int64 [n]."""
    last_rows: Tensor
    """int64 [n]: the row of each prompt's last token among n * (N + S)."""


@dataclass(frozen=True, slots=True)
class Branching:
    """The texts of a step whose images are in the slots of other captions already."""

    text_ids: Tensor
    """int64 [n, S], padded."""
    slots: Tensor
    """int64 [n]."""
    sources: Tensor
    """int64 [n]: the slots with the images."""
    last_rows: Tensor
    """int64 [n]: the row of each text's last token among n * S."""


def make_model(
    spec: EngineSpec, weights: Mapping[str, Tensor], num_positions: int, kv_dtype: torch.dtype
) -> "tuple[VisionTower | CppTower, Llama | CppLlama]":
    """Tower and decoder, on a CPU each in one call where all of their numbers are float32."""
    like = weights["text.norm.weight"]
    if like.device.type == "cpu" and {getattr(torch, spec.precision, None), kv_dtype} == {torch.float32}:
        from recap_fast.generate.torch_backend.cpp_model import CppLlama, CppTower

        return CppTower(spec.vision, spec.preprocess, weights), CppLlama(spec.text, weights, num_positions)
    ops = select_ops(like.device, like.dtype)
    return VisionTower(spec.vision, spec.preprocess, weights, ops), Llama(spec.text, weights, num_positions, ops)


class Step:
    """Weights and state of an engine on its device: keys and values, and the newest token of every slot.

    There is one slot more than asked for, the last, for whatever fills up a fixed shape and is of no use.
    """

    def __init__(
        self,
        spec: EngineSpec,
        weights: Mapping[str, Tensor],
        num_slots: int,
        num_positions: int,
        kv_dtype: torch.dtype,
        sampling: Sampling,
    ):
        like = weights["text.norm.weight"]
        device = like.device
        self._sampling = sampling
        self._num_prefix, self._num_image_tokens = 0, spec.vision.num_image_tokens
        self._num_branchings = 0
        self._vision, self._llama = make_model(spec, weights, num_positions, kv_dtype)
        self.cache = KVCache(spec.text, num_slots + 1, num_positions, kv_dtype, device)
        self._next_ids = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        queries = like.new_empty(1, spec.text.num_heads, spec.text.head_dim)
        self._lacks_cuda_kernel = device.type == "cuda" and not cuda.supports(queries, self.cache.data[0])

    @property
    def fallbacks(self) -> list[str]:
        """The fast kernels that are missing, or that this GPU's libraries refused so far; for `Engine.describe`."""
        found = []
        if self._lacks_cuda_kernel:
            found.append("decode attention not by the CUDA C++ kernel")
        if isinstance(self._vision, VisionTower) and (rejected := self._vision.attention.rejected):
            reasons = ", ".join(f"{'x'.join(map(str, shape))} {reason}" for shape, reason in rejected.items())
            found.append(f"attention of images not by cuDNN ({reasons})")
        prefix = f"{self._num_prefix}x"  # its few rows are computed once
        refused = [shape for shape in refused_products(self.cache.data.device) if not shape.startswith(prefix)]
        if refused:
            found.append(f"FP8 products not row-wise, which was refused: {', '.join(refused)}")
        return found

    @torch.inference_mode()
    def write_prefix(self, ids: Sequence[int]) -> None:
        """Computes keys and values of the constant text before the image once, and copies them to every slot."""
        self._num_prefix = count = len(ids)
        device = self._next_ids.device
        end = torch.full((1,), count - 1, device=device)
        prefill = Prefill(torch.zeros(1, dtype=torch.int64, device=device), 0, count, end)
        self._llama.forward(self._llama.embed(torch.tensor(ids, device=device)), self.cache, prefill, None)
        for part in self.cache.data.flatten(0, 1):
            part[1:, :, :count] = part[:1, :, :count]

    @torch.inference_mode()
    def run(self, joining: Joining | Branching | None, running: Rows | None, noise: Tensor | None) -> Tensor:
        """The next tokens, int64 [n + B], as `sampling.choose` has them.

        `running` are slot and position of the newest token of each running caption.
        `noise` holds a uniform number for each token where captions are sampled. Slots may occur twice where nobody
        reads them.
        """
        logits = self._forward(joining, running)
        tokens = choose(logits, self._sampling, noise)
        ids = tokens.clamp_min(0)  # the next step may begin before the host has seen that one is `NOT_FINITE`
        num_joining = 0 if joining is None else len(joining.slots)
        if running is not None:
            self._next_ids[running.slots] = ids[num_joining:]
        if joining is not None:  # last: a slot that was idle until now ran along as well
            self._next_ids[joining.slots] = ids[:num_joining]
        return tokens

    @torch.inference_mode()
    def logits(self, joining: Joining) -> Tensor:
        """The logits behind each prompt, float32 [n, V]; nobody's next token becomes another one."""
        return self._forward(joining, None).float()

    def _forward(self, joining: Joining | Branching | None, running: Rows | None) -> Tensor:
        """The logits of every next token, [n + B, V]."""
        rows, prefill = [], None
        if joining is not None:
            start, length = self._num_prefix, self._num_image_tokens + joining.text_ids.shape[1]
            texts = self._llama.embed(joining.text_ids)
            if isinstance(joining, Branching):
                self._copy_images(joining.sources, joining.slots)
                self._number_images(joining.slots, joining.sources)
                start, length = start + self._num_image_tokens, joining.text_ids.shape[1]
                rows += list(texts)
            else:
                self._number_images(joining.slots, None)
                images = self._vision.encode(joining.pixels)
                rows += [part for pair in zip(images, texts, strict=True) for part in pair]
            prefill = Prefill(joining.slots, start, length, joining.last_rows)
        if running is not None:
            rows.append(self._llama.embed(self._next_ids[running.slots]))
        return self._llama.forward(torch.cat(rows), self.cache, prefill, running)

    def _copy_images(self, sources: Tensor, slots: Tensor) -> None:
        """Copies the keys and values of images from slot to slot: those of one layer, keys or values, at a time.

        As integers: not every torch can index e4m3, and the fewer numbers a row has the faster it is copied.
        """
        end = self._num_prefix + self._num_image_tokens
        data = self.cache.data
        wide = data.shape[-1] * data.itemsize % 8 == 0
        for part in data.view(torch.int64 if wide else torch.uint8).flatten(0, 1)[..., self._num_prefix : end, :]:
            part.index_copy_(0, slots, part.index_select(0, sources))

    def _number_images(self, slots: Tensor, sources: Tensor | None) -> None:
        """Notes which slots hold the same image as others, for the CPU's decoder: on a GPU nobody asks."""
        cache = self.cache
        if cache.data.device.type != "cpu" or (sources is None and cache.images is None):
            return
        count = cache.data.shape[2]
        if cache.images is None:
            cache.images = torch.arange(count), self._num_prefix + self._num_image_tokens
        numbers = cache.images[0]
        if sources is None:
            numbers[slots] = slots  # an image of its own
            return
        self._num_branchings += 1  # other slots may still hold what a source held before
        numbers[sources] = numbers[slots] = sources + self._num_branchings * count
