"""OpenVINO GenAI: its continuous batching pipeline on the checkpoint as optimum-intel exports it.

Settings: `max_num_seqs`, `max_num_batched_tokens` and `kv_cache` ('f32', 'bf16', 'u8'). int8 is int8 weights, computed
with bfloat16. Prefix caching stays off: passes repeat their images, which it would know again.
Pixels go in as uint8 of the right size, which its own resize and crop leave as they are; it normalizes them itself.
Image and prompt are encoded one request at a time: its API has no batches there.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import openvino
import openvino_genai

from contest.peers.protocol import Images, Job, Pass, serve

COMPUTE = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
CACHE_GB = 2
IMAGE = "<image>"


class OpenVINO:
    """See `protocol.Contestant`."""

    libraries = ("openvino-genai", "openvino", "optimum-intel", "nncf")

    def __init__(self, job: Job):
        if job.device != "cpu":
            raise ValueError(f"OpenVINO has no device {job.device!r} here; leave it out of --peers")
        folder = export(job)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = job.settings["max_num_seqs"]
        scheduler.max_num_batched_tokens = job.settings["max_num_batched_tokens"]
        # where the processor has AMX, the default precision is bfloat16
        compute = {
            "INFERENCE_PRECISION_HINT": COMPUTE[job.precision],
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {**compute, "KV_CACHE_PRECISION": job.settings["kv_cache"]}, {}, compute
        )
        self._images, self._prompt = Images(job), self._prompt_text(job)

    def run(self, lengths: Sequence[int]) -> Pass:
        requests = []
        start = time.perf_counter()
        for number, (pixels, length) in enumerate(zip(self._images.decode(len(lengths)), lengths, strict=True)):
            config = openvino_genai.GenerationConfig(
                max_new_tokens=length, ignore_eos=True, do_sample=False, apply_chat_template=False
            )
            image = openvino.Tensor(pixels[None].copy())
            requests.append(self._pipeline.add_request(number, self._prompt, [image], config))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        captions = [request.read_all()[0].generated_ids for request in requests]
        return Pass(time.perf_counter() - start, captions)

    def _prompt_text(self, job: Job) -> str:
        """The prompt as the text that its tokenizer makes the very same ids of. It adds the newline after the image."""
        tokenizer = self._pipeline.get_tokenizer()
        before, after = (tokenizer.decode(ids, skip_special_tokens=False) for ids in (job.prefix_ids, job.suffix_ids))
        ids = tokenizer.encode(before + IMAGE * job.num_image_tokens + after).input_ids.data[0].tolist()
        if ids != job.prompt_ids or not after.startswith("\n"):
            raise ValueError(f"OpenVINO's tokenizer cannot write this prompt as text: it makes {ids} of it")
        return before + IMAGE + after.removeprefix("\n")


def export(job: Job) -> Path:
    """Converts the checkpoint below the job's folder, unless an earlier contestant has; returns where."""
    folder = Path(job.folder, "openvino-int8" if job.precision == "int8" else "openvino")
    if not folder.exists():
        from openvino_tokenizers import convert_tokenizer
        from optimum.intel import OVModelForVisualCausalLM
        from transformers import PreTrainedTokenizerFast

        partial = folder.with_suffix(".partial")
        model = OVModelForVisualCausalLM.from_pretrained(
            job.checkpoint, export=True, compile=False, load_in_8bit=job.precision == "int8"
        )
        model.save_pretrained(partial)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(job.checkpoint, "tokenizer.json")))
        encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
        openvino.save_model(encoder, partial / "openvino_tokenizer.xml")
        openvino.save_model(decoder, partial / "openvino_detokenizer.xml")
        side = job.image_size
        processor = {
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "image_mean": job.mean,
            "image_std": job.std,
        }
        (partial / "preprocessor_config.json").write_text(json.dumps(processor))
        partial.rename(folder)
    return folder


if __name__ == "__main__":
    serve(OpenVINO)
