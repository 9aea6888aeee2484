"""The sizes that an engine is fastest with on this very device, found by trying a few; `tuning.json` keeps them."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recap_fast.bench.synthetic import LONGEST, SHORTEST, caption_lengths, first_lengths
from recap_fast.errors import ConfigError, EngineError, RecapError
from recap_fast.generate.device import device_name, free_memory, resolve_device
from recap_fast.generate.engine import EngineOptions, SamplingOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape
from recap_fast.generate.torch_backend.memory import fit_slots
from recap_fast.generate.torch_backend.sizes import default_sizes, write_tuning
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import Request
from recap_fast.text import counted
from recap_fast.version import __version__

logger = logging.getLogger(__name__)

CPU_SLOTS, CPU_SHARES = (8, 16, 32, 64, 128), (4, 8, 16)
"""Tried on a CPU: numbers of slots, and of slots for each image of a prefill."""
GPU_IMAGES, GPU_CANDIDATES = range(4, 17), 8
"""Images of a prefill that are considered on a GPU, and how many of these numbers are tried."""
MIN_GPU_SLOTS, MAX_GPU_SLOTS = 128, 640
TILE = 128, 256
"""Rows and columns of a matrix product that one multiprocessor works on at a time, as cuBLAS has it for large ones."""
EIGHT_BITS_FASTER = 1.6
"""How much faster products are in 8 bits than in 16: published ratios are 1.5 to 1.9."""
CAPTION_STEPS = 66
"""Steps for which a caption of 65 tokens, the usual length, holds its slot: its end is known one step late."""
SECONDS = 5.0
FINALISTS = 3
MIN_CAPTIONS = 8
NUM_IMAGES, NUM_LENGTHS = 32, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured with a pair of sizes."""

    num_slots: int
    prefill_images: int
    images_per_s: float
    seconds: float
    """How long it was measured, after the warm-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The best sizes of an engine on one device, and all that were tried."""

    device: str
    best: Trial
    trials: tuple[Trial, ...]
    captions_per_image: int
    """What the engine's own prompts ask for: `images_per_s` are of so many each."""
    measured: str
    """Date and time."""
    versions: dict[str, str]

    def entry(self) -> dict[str, Any]:
        found = {
            "captions_per_image": self.captions_per_image,
            "measured": self.measured,
            "versions": self.versions,
        }
        return {**asdict(self.best), **found, "trials": [asdict(trial) for trial in self.trials]}

    def table(self) -> str:
        """A line a trial, the fastest first."""
        lines = [f"{'num_slots':>9}  {'prefill_images':>14}  {'images/s':>9}  {'seconds':>7}"]
        for t in sorted(self.trials, key=lambda trial: -trial.images_per_s):
            mark = "  <- kept" if t == self.best else ""
            lines.append(f"{t.num_slots:9}  {t.prefill_images:14}  {t.images_per_s:9.2f}  {t.seconds:7.1f}{mark}")
        return "\n".join(lines)


def tune(
    folder: Path,
    device: str = "auto",
    *,
    seconds: float = SECONDS,
    candidates: list[Sizes] | None = None,
    say: Callable[[str], None] = logger.info,
    progress: OnProgress = unwatched,
    verify: bool = True,
) -> Tuning:
    """Tries sizes on the device, each for so many seconds and the best again for twice as long, and keeps the fastest.

    The engine captions as it does unless `run` is told otherwise: with its own prompts, and its own sampling.
    `candidates` are the sizes to try, by default a list that goes by the device; what does not fit is left out. `say`
    is told how it goes, `progress` how many are done. With `verify` the weights are compared with their checksums when
    an engine is opened first. Raises ConfigError where the engine cannot be opened with any of them.
    """
    spec = EngineSpec.load(folder)
    if spec.backend != "torch":
        raise ConfigError(f"{folder}: the sizes of a {spec.backend} engine were fixed when it was built.")
    where = resolve_device(device)
    name = device_name(where)
    tuner = _Tuner(folder, where, verify)
    points = tuner.candidates() if candidates is None else candidates
    trials: list[Trial] = []
    several = f", {num_captions} captions an image" if (num_captions := tuner.captions_per_image) > 1 else ""
    say(f"tuning on {name}: {counted(len(points), 'pair')} of sizes, at least {seconds:g} s each{several}")
    begun, num = itertools.count(), len(points) + min(len(points), FINALISTS)
    for span, kept in ((seconds, FINALISTS), (2 * seconds, 1)):
        tried = tuner.try_all(points, span, say, lambda: progress(next(begun), num))
        trials += tried
        points = [Sizes(num_slots=t.num_slots, prefill_images=t.prefill_images) for t in tried[:kept]]
    tuning = Tuning(
        device=name,
        best=tried[0],
        trials=tuple(trials),
        captions_per_image=num_captions,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"recap-fast": __version__, "torch": torch.__version__},
    )
    write_tuning(folder, name, tuning.entry())
    return tuning


def num_waves(rows: int, columns: int, num_units: int) -> int:
    """Waves that a matrix product [rows, columns] takes: in each, every multiprocessor computes one tile."""
    return math.ceil(math.ceil(rows / TILE[0]) * math.ceil(columns / TILE[1]) / num_units)


def estimate_rate(
    spec: EngineSpec, shape: SlotShape, sizes: Sizes, num_units: int, captions_per_image: int = 1
) -> float:
    """Images in a unit of time, by the matrix products alone: this ranks sizes, and predicts no rate.

    In the steady state, with k images a prefill, c captions an image, B slots and S steps a caption, c (k - 1) / 2
    slots are free on average: they wait for a full group. A step begins g = min(k, (B / c - (k - 1) / 2) / S) images,
    so a share g / k of all steps has a prefill. A product takes its waves times its inner width; a last wave that is
    not full costs as much as a full one. What is left out, such as attention and norms, takes about as long for each
    image whatever the sizes.
    """
    text, vision, images = spec.text, spec.vision, sizes.prefill_images
    heads, width, inner = text.num_heads * text.head_dim, vision.hidden_size, vision.intermediate_size
    keys_values = 2 * text.num_kv_heads * text.head_dim
    decoder = [(heads + keys_values, text.hidden_size), (text.hidden_size, heads)]
    decoder += [(2 * text.intermediate_size, text.hidden_size), (text.hidden_size, text.intermediate_size)]
    tower = [(3 * width, width), (width, width), (inner, width), (width, inner)]
    faster = 1.0 if spec.precision == spec.compute_precision else EIGHT_BITS_FASTER

    def seconds(rows: int, products: list[tuple[int, int]], num_layers: int) -> float:
        return num_layers * sum(num_waves(rows, columns, num_units) * depth for columns, depth in products)

    new = images * (shape.num_image_tokens + captions_per_image * shape.max_text_tokens)
    mixed = seconds(new + sizes.num_slots, decoder, text.num_layers) / faster
    mixed += seconds(images * vision.num_positions, tower, vision.num_layers)
    decode = seconds(sizes.num_slots, decoder, text.num_layers) / faster
    begun = min(images, (sizes.num_slots / captions_per_image - (images - 1) / 2) / CAPTION_STEPS)
    share = begun / images
    return begun / (share * mixed + (1 - share) * decode)


def gpu_candidates(
    spec: EngineSpec, shape: SlotShape, num_units: int, most_slots: int, captions_per_image: int = 1
) -> list[Sizes]:
    """The sizes with the highest estimates, best first: for each number of images the best number of slots."""
    counts = range(min(MIN_GPU_SLOTS, most_slots), most_slots + 1, 8)

    def rate(sizes: Sizes) -> float:
        return estimate_rate(spec, shape, sizes, num_units, captions_per_image)

    best = [
        max((Sizes(num_slots=slots, prefill_images=images) for slots in counts), key=rate)
        for images in GPU_IMAGES
        if images <= most_slots
    ]
    return sorted(best, key=rate, reverse=True)[:GPU_CANDIDATES]


class _Tuner:
    """Opens an engine with given sizes and measures it on requests of noise, the same for all sizes."""

    def __init__(self, folder: Path, device: torch.device, verify: bool = True):
        self._device, self._verify = device, verify
        self._prepared = PreparedEngine.read(folder, verify=verify).with_spec(stop_ids=())
        self._spec, prompts = self._prepared.spec, self._prepared.prompts
        self._num_prefix, self._sampling = len(prompts.prefix_ids), SamplingOptions().over(self._spec.sampling)
        self._texts = [prompt.encoder.text_ids({})[0] for prompt in prompts.of_image(bytes(32).hex(), seed=0)]
        self.captions_per_image = len(self._texts)
        """Those of the engine's own prompts; where these are drawn, all images get the same."""
        side = self._spec.preprocess.image_size
        rng, longest = np.random.default_rng(0), min(LONGEST, self._spec.limits.max_new_tokens)
        self._pixels = rng.integers(0, 256, (NUM_IMAGES, 3, side, side), dtype=np.uint8)
        drawn = caption_lengths(rng, NUM_LENGTHS, shortest=min(SHORTEST, longest), longest=longest)
        self._lengths: list[int] = drawn.tolist()

    def candidates(self) -> list[Sizes]:
        """Sizes to try: what the engine has for the device, and a grid on a CPU or the best by estimate on a GPU."""
        spec, captions, is_cpu = self._spec, self.captions_per_image, self._device.type == "cpu"
        default = default_sizes(spec, device_name(self._device), is_cpu=is_cpu)
        if is_cpu:
            pairs = ((slots, n * captions) for slots, n in itertools.product(CPU_SLOTS, CPU_SHARES))
            points = [Sizes(num_slots=slots, prefill_images=slots // n) for slots, n in pairs if n <= slots]
        else:
            shape = spec.slot_shape(self._num_prefix)
            wanted = Sizes(num_slots=MAX_GPU_SLOTS, prefill_images=GPU_IMAGES[-1])
            most = fit_slots(spec, shape, wanted, free_memory(self._device), device_name(self._device), captions)
            num_units = torch.cuda.get_device_properties(self._device).multi_processor_count
            points = gpu_candidates(spec, shape, num_units, most, captions)
        return points if default in points else [default, *points]

    def try_all(
        self,
        points: list[Sizes],
        seconds: float,
        say: Callable[[str], None],
        begin: Callable[[], None] = lambda: None,
    ) -> list[Trial]:
        """The trials, the fastest first; `begin` is called before each.

        Raises the last refusal if no engine can be opened or run.
        """
        trials: list[Trial] = []
        refusal: RecapError | None = None
        for sizes in points:
            begin()
            label = f"  num_slots {sizes.num_slots:4}, prefill_images {sizes.prefill_images:2}"
            try:
                trials.append(self.measure(sizes, seconds))
            except (ConfigError, EngineError) as error:
                refusal = error
                error.__traceback__ = error.__cause__ = error.__context__ = None  # their frames hold its memory
                say(f"{label}: {error}")
            else:
                say(f"{label}: {trials[-1].images_per_s:8.2f} images/s")
        if not trials and refusal is not None:
            raise refusal
        return sorted(trials, key=lambda trial: -trial.images_per_s)

    def measure(self, sizes: Sizes, seconds: float) -> Trial:
        """Images/s once all slots are taken. The engine always has requests waiting."""
        given = {"loop_stop": False, "sampling": self._sampling, "verify": self._verify, **asdict(sizes)}
        engine = self._prepared.open(EngineOptions(device=str(self._device), **given))
        self._verify, captions = False, self.captions_per_image
        first = first_lengths(self._lengths, sizes.num_slots, sizes.prefill_images * captions)
        requests = self._requests(itertools.chain(first, itertools.cycle(self._lengths)))
        completions = generate_all(engine, requests)
        with closing(engine):
            while engine.statistics.captions < len(first):
                next(completions)
            started, done, elapsed = time.perf_counter(), 0, 0.0
            while elapsed < seconds or done < MIN_CAPTIONS:
                next(completions)
                done, elapsed = done + 1, time.perf_counter() - started
        rate = done / captions / elapsed
        return Trial(**asdict(sizes), images_per_s=round(rate, 3), seconds=round(elapsed, 3))

    def _requests(self, lengths: Iterable[int]) -> Iterator[Request]:
        """A request for each length, and an image for as many of them as there are prompts."""
        num = self.captions_per_image
        for number, length in enumerate(lengths):
            image, place = divmod(number, num)
            pixels, first = self._pixels[image % NUM_IMAGES], None if place == 0 else image * num
            yield Request(number, pixels, self._texts[place], length, noise_key=number, same_image_as=first)
