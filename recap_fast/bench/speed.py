"""How long an image takes on this machine's CPU, before there is an engine to measure."""

from recap_fast.bench.roofline import Roofline
from recap_fast.generate.device import resolve_device
from recap_fast.generate.layout import weight_bytes
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.launch.progress_line import duration

LARGE_BYTES = 1 << 30
"""A model with more weights is slow on a CPU."""
CAPTION_TOKENS = 65
"""A usual caption."""


def speed_on_cpu(spec: EngineSpec, tokenizer: Tokenizer) -> str | None:
    """A line for people on an engine of a large model; None where there is a GPU, or the engine is of tensorrt-llm.

    It measures the rates of the CPU, which takes some 2 s.
    """
    device = resolve_device("auto")
    if device.type != "cpu" or spec.backend != "torch" or weight_bytes(spec) < LARGE_BYTES:
        return None
    roofline = Roofline(spec, device, len(PromptEncoder(tokenizer, spec.prompt).prefix_ids))
    seconds = round(roofline.least_seconds(spec.limits.max_text_tokens, CAPTION_TOKENS), 1)
    time = duration(300 * seconds)
    return f"Speed on this CPU: at best {seconds} s an image ({roofline.rates}), {time} for 300 images."
