"""transformers: `generate` with sdpa on static batches. Each batch runs to its longest caption and the rest is cut.

Its continuous batching, `generate_batch`, takes no images. Settings: `batch`.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaForConditionalGeneration

from contest.peers.protocol import Images, Job, Pass, serve


class Transformers:
    """See `protocol.Contestant`."""

    libraries = ("transformers", "torch")

    def __init__(self, job: Job):
        torch.set_num_threads(job.threads)
        self._images, self._batch, self._device = Images(job), job.settings["batch"], torch.device(job.device)
        self._model = LlavaForConditionalGeneration.from_pretrained(
            job.checkpoint, dtype=getattr(torch, job.precision), attn_implementation="sdpa"
        )
        self._model.generation_config.eos_token_id = None
        self._model.eval().to(self._device)
        self._prompt = torch.tensor(job.prompt_ids, device=self._device)
        self._mean, self._std = (torch.tensor(v, device=self._device)[:, None, None] for v in (job.mean, job.std))

    @torch.inference_mode()
    def run(self, lengths: Sequence[int]) -> Pass:
        captions: list[list[int]] = []
        start = time.perf_counter()
        images = self._images.decode(len(lengths))
        for first in range(0, len(lengths), self._batch):
            wanted = lengths[first : first + self._batch]
            ids = self._generate(self._pixel_values(islice(images, len(wanted))), max(wanted))
            captions += [row[:length] for row, length in zip(ids, wanted, strict=True)]
        return Pass(time.perf_counter() - start, captions)

    def _pixel_values(self, images: Iterator[NDArray[np.uint8]]) -> torch.Tensor:
        """[n, 3, H, W], equal to those of transformers' own processor and made in a third of its time."""
        pixels = torch.from_numpy(np.stack(list(images))).to(self._device).permute(0, 3, 1, 2)
        return ((pixels.float() / 255 - self._mean) / self._std).to(self._model.dtype)

    def _generate(self, pixel_values: torch.Tensor, num_tokens: int) -> list[list[int]]:
        input_ids = self._prompt.expand(len(pixel_values), -1)
        out = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=pixel_values,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return out[:, input_ids.shape[1] :].tolist()


if __name__ == "__main__":
    serve(Transformers)
