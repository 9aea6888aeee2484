"""The settings of a run as its run file has them, as settings of an engine that is opened again."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recap_fast.defaults import MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions, Sampling
from recap_fast.generate.spec import EngineSpec
from recap_fast.launch.config import RunConfig, fingerprint, selection_of
from recap_fast.records import ACCEPTABLE
from recap_fast.write.fingerprint import as_json
from recap_fast.write.output_folder import RUN_FILE

_SAMPLED = re.compile(r"temperature (\S+), top_k (\d+), top_p (\S+), seed (-?\d+)")


def settings_of(
    marks: Mapping[str, Any],
    engine: Path,
    *,
    device: str = "auto",
    decoder: str | None = None,
    max_image_pixels: int | None = None,
) -> RunConfig:
    """The config that makes captions as the run with these marks, its fingerprint, did.

    `decoder` is another one than the run's. Raises ConfigError for an engine directory that cannot be used or is not
    the run's, and says which fields differ.
    """
    spec = EngineSpec.load(engine)
    try:
        config = RunConfig(
            engine=engine,
            shards=(RUN_FILE,),  # that of the run are known, and read elsewhere
            output=".",
            options=EngineOptions(
                device=device,
                max_new_tokens=marks["max_new_tokens"],
                loop_stop=marks["loop_stop"],
                sampling=_sampling(marks["sampling"]),
            ),
            decoder=decoder or marks["decoder"],
            max_image_pixels=max_image_pixels or MAX_IMAGE_PIXELS,
            background=marks["background"],
            prompt=_prompts(marks),
            num_captions=marks.get("num_captions", 1),
            max_field_tokens=marks["max_field_tokens"],
            **asdict(selection_of(marks)),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{RUN_FILE} lacks settings of the run, or has others ({error!r}): put it back.") from error
    differing = _differences(marks, config, spec)
    lines = [line for name, line in differing.items() if name not in ACCEPTABLE]
    if lines:
        listed = "\n".join(lines)
        raise ConfigError(
            f"{engine} is not the engine that made these rows:\n{listed}\nGive the engine of that run as --engine."
        )
    return config


def changes(marks: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What is another one now without being refused: the decoder, and versions of libraries."""
    differing = _differences(marks, config, EngineSpec.load(config.engine))
    return [line.strip() for name, line in differing.items() if name in ACCEPTABLE]


def _differences(marks: Mapping[str, Any], config: RunConfig, spec: EngineSpec) -> dict[str, str]:
    """The marks that are others now: by name a line that says so."""
    now = as_json(fingerprint(config, spec, config.decoder))
    return {
        name: f"  {name}: {marks.get(name)!r} there, {now.get(name)!r} here"
        for name in sorted({*marks, *now} - {"schema"})  # `read_run` says which columns can be read
        if marks.get(name) != now.get(name)
    }


def _prompts(marks: Mapping[str, Any]) -> tuple[str, ...]:
    """What the run was given as its prompts, or what stands for it: sets with weights are the engine's."""
    if "prompts" not in marks:
        return (f"prompt1={marks['prompt']}",)
    given = []
    for each in marks["prompts"]:
        if "set" in each:
            given.append(each["set"])
        else:
            given += [f"{name}={question}" for name, question in each["prompts"].items()]
    return tuple(given)


def _sampling(text: str) -> Sampling:
    """The inverse of what `launch.config.fingerprint` writes."""
    match = _SAMPLED.fullmatch(text)
    if match is None:
        return Sampling()  # 'greedy': another text is found to differ
    temperature, top_k, top_p, seed = match.groups()
    return Sampling(temperature=float(temperature), top_k=int(top_k), top_p=float(top_p), seed=int(seed))
