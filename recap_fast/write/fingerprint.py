"""Compares the fingerprint of a run with that of an output folder: all settings that decide what rows say.

See `launch/config.py`, which makes it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recap_fast.errors import ConfigError
from recap_fast.records import ACCEPTABLE
from recap_fast.write.output_folder import OutputFolder

_ABSENT = {"num_captions": 1}
"""What it means that a field is not there; None for others."""


def as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint as it is read back: tuples become lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return fields


def refuse_other_fingerprint(
    output: OutputFolder, old: Mapping[str, Any], new: Mapping[str, Any], accepted: Sequence[str] = ()
) -> None:
    """Raises ConfigError, naming what differs, if two fingerprints differ in a field that is not accepted."""
    fields = as_json(new)
    differing = [name for name in sorted({*old, *fields}) if old.get(name) != fields.get(name) and name not in accepted]
    if not differing:
        return
    way_out = "Give another --output, the settings of that run, or --overwrite to remove its output."
    if "schema" in differing:
        way_out = (
            "Versions of recap-fast with another schema write other columns. Give another --output, use the version "
            "that wrote this one, or give --overwrite to remove it."
        )
    elif set(differing) <= set(ACCEPTABLE):
        way_out = f"Go on with --accept-changed {','.join(differing)}, or give another --output."
    raise ConfigError(
        f"{output.address} holds the output of a run with other settings, and mixing both would be a mistake:\n"
        + "".join(f"  {line}\n" for line in _lines(differing, old, fields))
        + way_out
    )


def _lines(differing: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What differs, for people: `prompts` has in JSON what `prompt` has as text, so its parts count where that is the
    same."""
    for name in differing:
        if name != "prompts":
            there, now = (fields.get(name, _ABSENT.get(name)) for fields in (old, new))
            if there != now:
                yield f"{name}: {there!r} there, {now!r} now"
        elif "prompt" not in differing:
            parts, others = (dict(_parts(fields.get(name), name)) for fields in (old, new))
            for part in dict.fromkeys([*parts, *others]):
                if parts.get(part) != others.get(part):
                    yield f"{part}: {parts.get(part)!r} there, {others.get(part)!r} now"


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in JSON that are neither lists nor objects, by their paths."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _parts(each, f"{name}.{key}")
    else:
        yield name, value
