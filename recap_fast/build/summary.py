"""What `build-engine` says of an engine that it is about to make: what it is, what it is fed, what memory it takes."""

import dataclasses

from recap_fast.cpus import usable_memory
from recap_fast.generate.device import device_name, free_memory, resolve_device
from recap_fast.generate.layout import EIGHT_BITS, weight_bytes
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.generate.torch_backend.memory import MemoryPlan, fit_cpu_slots, fit_slots, plan_memory
from recap_fast.generate.torch_backend.sizes import default_sizes
from recap_fast.text import counted, sized

MADE_SQUARE = {"pad": "padded", "crop": "cropped", "stretch": "stretched"}


def summarize(spec: EngineSpec, tokenizer: Tokenizer) -> str:
    """Lines for people on an engine before it is built, and on the device that `run` would take here."""
    lines = [
        f"{spec.name}: {counted(spec.text.num_layers, 'decoder layer')} of {spec.text.hidden_size}, "
        f"{spec.vision.num_image_tokens} image tokens, {sized(weight_bytes(spec))} of weights in {spec.precision}",
        f"Template {spec.prompt.template}. Images are {MADE_SQUARE[spec.preprocess.mode]} to a square of "
        f"{spec.preprocess.image_size} pixels a side, {spec.preprocess.resample}.",
    ]
    if spec.backend == "torch":  # TensorRT-LLM takes what is free
        shape = spec.slot_shape(len(PromptEncoder(tokenizer, spec.prompt).prefix_ids))
        device = resolve_device("auto")
        if device.type == "cuda":
            lines.append(f"Memory: {memory_on_gpu(spec, shape, device_name(device), free_memory(device))}.")
        else:
            lines.append(f"Memory on this CPU: {memory_on_cpu(spec, shape, usable_memory())}.")
            lines.append(f"Memory on a GPU: {memory_on_gpu(spec, shape)}.")
    return "\n".join(lines)


def memory_on_cpu(spec: EngineSpec, shape: SlotShape, memory_bytes: int) -> str:
    """What the default sizes take of a CPU's memory, by computation, and the slots that fit where it has less."""
    sizes = default_sizes(spec, "", is_cpu=True)
    plan = plan_memory(spec, shape, sizes)
    text = f"{sized(plan.weights + plan.cache)} ({_parts(plan, sizes)})"
    text = f"{text}; this process may use {sized(memory_bytes)}"
    if plan.weights > memory_bytes * 7 // 8:
        return f"{text}, which is too little for the weights: it will be very slow{_smaller(spec, 'int8')}"
    fitting = fit_cpu_slots(spec, shape, sizes, memory_bytes)
    return text if fitting == sizes.num_slots else f"{text}, so it makes {_at_once(fitting)}{_smaller(spec, 'int8')}"


def memory_on_gpu(spec: EngineSpec, shape: SlotShape, name: str = "", free_bytes: int | None = None) -> str:
    """What the default sizes take of the memory of a GPU of this name, by computation, and what happens where it has
    less; of any GPU where `free_bytes` is None."""
    sizes = default_sizes(spec, name, is_cpu=False)
    plan = plan_memory(spec, shape, sizes)
    rest = sized(plan.activations + plan.pixels + plan.overhead)
    text = f"{sized(plan.total)} ({_parts(plan, sizes)}, the rest {rest})"
    least = plan_memory(spec, shape, Sizes(num_slots=1, prefill_images=1)).total
    has = f"{text}; {name} has {sized(free_bytes or 0)} free"
    if free_bytes is None:
        return f"{text}; at least {sized(least)}, with fewer captions at once"
    if plan.total <= free_bytes:
        return f"{text} of {name}"
    if least > free_bytes:
        return f"{has}, which is too little: it takes at least {sized(least)}{_smaller(spec)}"
    return f"{has}, so it makes {_at_once(fit_slots(spec, shape, sizes, free_bytes))}{_smaller(spec)}"


def _parts(plan: MemoryPlan, sizes: Sizes) -> str:
    return f"weights {sized(plan.weights)}, keys and values of {_at_once(sizes.num_slots)} {sized(plan.cache)}"


def _at_once(num_slots: int) -> str:
    return f"{counted(num_slots, 'caption')} at once"


def _smaller(spec: EngineSpec, precisions: str = "fp8 or int8") -> str:
    """What may be done about an engine that does not fit; nothing where its weights are in 8 bits already."""
    if spec.precision in EIGHT_BITS:
        return ""
    weights = weight_bytes(dataclasses.replace(spec, precision="int8"))
    return f". With --precision {precisions} the weights take {sized(weights)}"
