"""What `build-engine` says of an engine that it made: what it is, what memory it takes, and what to type next."""

import shlex
from pathlib import Path

from recap_fast.cpus import usable_memory
from recap_fast.generate.device import device_name, free_memory, resolve_device
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape
from recap_fast.generate.torch_backend.memory import GIB, MemoryPlan, fit_cpu_slots, fit_slots, plan_memory
from recap_fast.generate.torch_backend.sizes import default_sizes
from recap_fast.text import counted


def summarize(engine: Path) -> str:
    """Lines for people, about the device that `run` would take here."""
    prepared = PreparedEngine.read(engine, verify=False)
    spec = prepared.spec
    size = sum(file.stat().st_size for file in engine.rglob("*") if file.is_file()) / 2**20
    lines = [
        f"{spec.name}: {counted(spec.text.num_layers, 'decoder layer')} of {spec.text.hidden_size}, "
        f"{spec.vision.num_image_tokens} image tokens, {spec.precision}, {size:,.1f} MiB in {engine}"
    ]
    if spec.backend == "torch":  # TensorRT-LLM takes what is free
        shape, device = spec.slot_shape(len(prepared.prompts.prefix_ids)), resolve_device("auto")
        if device.type == "cuda":
            lines.append(f"Memory: {memory_on_gpu(spec, shape, device_name(device), free_memory(device))}.")
        else:
            lines.append(f"Memory on this CPU: {memory_on_cpu(spec, shape, usable_memory())}.")
            lines.append(f"Memory on a GPU: {memory_on_gpu(spec, shape)}.")
    lines.append(f"Next: recap-fast run --engine {shlex.quote(str(engine))} --shards IMAGES --output captions")
    return "\n".join(lines)


def memory_on_cpu(spec: EngineSpec, shape: SlotShape, memory_bytes: int) -> str:
    """What the default sizes take of a CPU's memory, by computation, and the slots that fit where it has less."""
    sizes = default_sizes(spec, "", is_cpu=True)
    plan = plan_memory(spec, shape, sizes)
    text = f"{_size(plan.weights + plan.cache)} ({_parts(plan, sizes)})"
    text = f"{text}; this process may use {_size(memory_bytes)}"
    if plan.weights > memory_bytes * 7 // 8:
        return f"{text}, which is too little for the weights: it will be very slow"
    fitting = fit_cpu_slots(spec, shape, sizes, memory_bytes)
    return text if fitting == sizes.num_slots else f"{text}, so it makes {counted(fitting, 'caption')} at once"


def memory_on_gpu(spec: EngineSpec, shape: SlotShape, name: str = "", free_bytes: int | None = None) -> str:
    """What the default sizes take of the memory of a GPU of this name, by computation, and what happens where it has
    less; of any GPU where `free_bytes` is None."""
    sizes = default_sizes(spec, name, is_cpu=False)
    plan = plan_memory(spec, shape, sizes)
    rest = _size(plan.activations + plan.pixels + plan.overhead)
    text = f"{_size(plan.total)} ({_parts(plan, sizes)}, the rest {rest})"
    least = plan_memory(spec, shape, Sizes(num_slots=1, prefill_images=1)).total
    if free_bytes is None:
        return f"{text}; at least {_size(least)}, with fewer captions at once"
    if plan.total <= free_bytes:
        return f"{text} of {name}"
    if least > free_bytes:
        return f"{text}; {name} has {_size(free_bytes)} free, which is too little: it takes at least {_size(least)}"
    fitting = counted(fit_slots(spec, shape, sizes, free_bytes), "caption")
    return f"{text}; {name} has {_size(free_bytes)} free, so it makes {fitting} at once"


def _parts(plan: MemoryPlan, sizes: Sizes) -> str:
    captions = counted(sizes.num_slots, "caption")
    return f"weights {_size(plan.weights)}, keys and values of {captions} at once {_size(plan.cache)}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"
