"""How many images/s one GPU makes, and where that number is from: the user, a report of `bench`, or `tune`."""

from dataclasses import dataclass
from pathlib import Path

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table
from recap_fast.generate.json_file import read_json
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.torch_backend.tuning_file import read_tuned_rates

END_TO_END = "end-to-end"


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one GPU, or of one CPU."""

    images_per_s: float
    origin: str
    """In words: 'tune on NVIDIA H200, 2026-11-27, the engine alone'."""


def find_speed(images_per_s: float | None, bench: Path | None, engine: Path | None) -> Speed | None:
    """The first of these that says it; None where none does.

    `bench` is the file that `bench --json` wrote, `engine` an engine directory. Raises ConfigError for a rate that is
    none, and where file or directory cannot be read.
    """
    if images_per_s is not None:
        if not 0 < images_per_s < float("inf"):
            raise ConfigError(f"--images-per-second {images_per_s:g}: give a number above 0.")
        return Speed(images_per_s, "as given")
    if bench is not None:
        return _of_bench(bench)
    return None if engine is None else _of_tuning(engine)


@dataclass(frozen=True, slots=True)
class _Measurement:
    stage: str
    images_per_s: float
    captions_per_image: float = 1.0


@dataclass(frozen=True, slots=True)
class _Machine:
    cpu: str
    gpus: tuple[str, ...]


def _of_bench(path: Path) -> Speed:
    """What a whole run made, else what the engine made alone."""
    source = Source(path, "Give a file that `recap-fast bench --json` wrote.", passes_unknown=True)
    content = read_json(path)
    found = content.get("measurements")
    measured = {}
    for number, each in enumerate(found if isinstance(found, list) else []):
        row = read_table(source, _Measurement, each, f"measurements[{number}]")
        measured[row.stage] = row
    machine = read_table(source, _Machine, content.get("machine"), "machine")
    for stage, what in ((END_TO_END, "whole runs"), ("generate", "the engine alone")):
        if stage in measured and (row := measured[stage]).images_per_s > 0:
            device, several = (*machine.gpus, machine.cpu)[0], _several(row.captions_per_image)
            return Speed(row.images_per_s, f"bench on {device}, {what}{several}")
    raise source.refuse(f" has no images/s of {END_TO_END} or generate")


def _of_tuning(engine: Path) -> Speed | None:
    """The latest measurement: an engine may have been tuned on several devices."""
    EngineSpec.load(engine)  # refuses what is no engine directory
    rates = read_tuned_rates(engine)
    if not rates:
        return None
    latest = max(rates, key=lambda name: rates[name].measured)
    others = [f"{found.images_per_s:g} on {name}" for name, found in rates.items() if name != latest]
    also = f"; it was also tuned at {', '.join(others)}" if others else ""
    several = _several(rates[latest].captions_per_image)
    origin = f"tune on {latest}, {rates[latest].measured[:10]}, the engine alone{several}{also}"
    return Speed(rates[latest].images_per_s, origin)


def _several(captions_per_image: float) -> str:
    return f", {captions_per_image:g} captions an image" if captions_per_image > 1 else ""
