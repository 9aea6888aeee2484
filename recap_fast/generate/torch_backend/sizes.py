"""How many slots and images a prefill an engine gets. What is asked for comes first, then what was measured on this
very device (`tuning_file.py`), then what the recipe has for such a card, then the engine's limits; and no more slots
than fit.
"""

import re
from dataclasses import replace

from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape
from recap_fast.generate.torch_backend.memory import check_fit, fit_cpu_slots, fit_slots
from recap_fast.generate.torch_backend.tuning_file import read_tuning as read_tuning
from recap_fast.generate.torch_backend.tuning_file import write_tuning as write_tuning

CPU_SIZES = Sizes(num_slots=96, prefill_images=8)
"""At most these on a CPU, unless measured or asked for: more gain a few percent and take memory."""


def choose_sizes(
    spec: EngineSpec,
    shape: SlotShape,
    options: EngineOptions,
    tuned: Sizes | None,
    *,
    device: str,
    memory_bytes: int,
    is_cpu: bool,
) -> Sizes:
    """The sizes to open an engine with.

    `tuned` is what `read_tuning` has for the device, `device` its name, and `memory_bytes` a GPU's free memory, or all
    that this process may use on a CPU. Raises ConfigError where what is asked for does not fit a GPU, or nothing does.
    """
    wanted = tuned or default_sizes(spec, device, is_cpu=is_cpu)
    if options.prefill_images is not None:
        wanted = replace(wanted, prefill_images=options.prefill_images)
    if is_cpu:
        return _with_slots(wanted, options.num_slots or fit_cpu_slots(spec, shape, wanted, memory_bytes), options)
    captions = options.captions_per_image
    num_slots = options.num_slots or fit_slots(spec, shape, wanted, memory_bytes, device, captions)
    sizes = _with_slots(wanted, num_slots, options)
    check_fit(spec, shape, sizes, memory_bytes, device, captions)
    return sizes


def default_sizes(spec: EngineSpec, device: str, *, is_cpu: bool) -> Sizes:
    """What engine.json has for a device of this name: the first of `cards` whose words are all in it, or the limits."""
    words = set(re.split(r"[\s-]+", device.lower()))
    for card, sizes in spec.cards.items():
        if words.issuperset(card.lower().split()):
            return sizes
    sizes = Sizes(num_slots=spec.limits.num_slots, prefill_images=spec.limits.prefill_images)
    if not is_cpu:
        return sizes
    return Sizes(
        num_slots=min(sizes.num_slots, CPU_SIZES.num_slots),
        prefill_images=min(sizes.prefill_images, CPU_SIZES.prefill_images),
    )


def _with_slots(sizes: Sizes, num_slots: int, options: EngineOptions) -> Sizes:
    """With another number of slots, and a prefill that leaves three of four to the captions that are running.

    So does one of images with several captions each.
    """
    images, captions = sizes.prefill_images, options.captions_per_image
    if (num_slots < sizes.num_slots or captions > 1) and options.prefill_images is None:
        images = min(images, max(1, num_slots // (4 * captions)))
    return Sizes(num_slots=num_slots, prefill_images=min(images, num_slots))
