"""How many slots and images a prefill an engine gets. What is asked for comes first, then what was measured on this
very device, then what the recipe has for such a card, then the engine's limits; and no more slots than fit.

What was measured stands in the engine's folder, in tuning.json: the sizes that were fastest, an entry for each device
by name. Sizes decide how fast captions are made, not what they say, so the file is no part of what engine.json lists
and of a run's fingerprint. `tune` (bench/tune.py) adds entries.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recap_fast.atomic import atomic_write
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.fields import Source, read_table, read_value
from recap_fast.generate.json_file import read_json
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape
from recap_fast.generate.torch_backend.memory import check_fit, fit_cpu_slots, fit_slots

TUNING_FILE, FORMAT = "tuning.json", 1
AGAIN = "Delete it, or tune the engine again."
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
    num_slots = options.num_slots or fit_slots(spec, shape, wanted, memory_bytes, device)
    sizes = _with_slots(wanted, num_slots, options)
    check_fit(spec, shape, sizes, memory_bytes, device)
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


def read_tuning(folder: Path, device: str) -> Sizes | None:
    """The sizes that the engine in `folder` was found to be fastest with on the device of this name; None if not tuned.

    Raises ConfigError where tuning.json cannot be read.
    """
    path = folder / TUNING_FILE
    entry = _read(path).get(device)
    source = Source(path, AGAIN, passes_unknown=True)
    return None if entry is None else read_table(source, Sizes, entry, f"devices.{device}")


def write_tuning(folder: Path, device: str, entry: Mapping[str, Any]) -> None:
    """Adds a device's entry, or replaces it: `num_slots`, `prefill_images`, and how they were found."""
    path = folder / TUNING_FILE
    content = {"format": FORMAT, "devices": {**_read(path), device: entry}}
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def _with_slots(sizes: Sizes, num_slots: int, options: EngineOptions) -> Sizes:
    """With another number of slots, and a prefill that leaves three of four to the captions that are running."""
    images = sizes.prefill_images
    if num_slots < sizes.num_slots and options.prefill_images is None:
        images = min(images, max(1, num_slots // 4))
    return Sizes(num_slots=num_slots, prefill_images=min(images, num_slots))


def _read(path: Path) -> dict[str, Any]:
    """The entries by device; none where there is no file."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except ConfigError as error:
        raise ConfigError(f"{error} {AGAIN}") from error
    entries: dict[str, Any] = read_value(Source(path, AGAIN), dict[str, Any], "devices", content.get("devices"))
    return entries
