"""The kind `hub`: the files of `parquet` and a dataset card, uploaded to a dataset repository of the Hub."""

import hashlib
import html
from collections.abc import Mapping

import pyarrow as pa

from recap_fast.errors import ConfigError
from recap_fast.export.choice import LIST
from recap_fast.export.config import ExportConfig
from recap_fast.export.features import yaml_features
from recap_fast.export.job import CAPTIONS, SAMPLES, SKIPPED, Job
from recap_fast.export.parquet import FLAG, write_files
from recap_fast.export.tables import CAPTION
from recap_fast.export.upload import DATA, Upload
from recap_fast.text import counted
from recap_fast.write.card import cell
from recap_fast.write.output_folder import CARD

NAME = ".card"
"""Name of the card's record; no shard has this name."""
LICENSES = {"llava-llama3": "llama3"}
"""The Hub's names of the licenses of models, by the beginning of the engine's name."""
_NOTICES = {"llama3": "Built with Meta Llama 3."}
"""What a license asks for."""
_FACTS = (
    "engine",
    "precision",
    "prompt",
    "template",
    "preprocess",
    "decoder",
    "sampling",
    "max_new_tokens",
    "versions",
)
_COLUMNS: Mapping[tuple[str, ...], str] = {
    (LIST,): "\n`captions` has all captions of an image, each with the name and the text of its prompt.",
    (CAPTION,): "\n`caption` is one of the two, drawn at random.",
    ("shard", "index"): "\n`(shard, index)` tells which image it was.",
    ("key", "url", "uid", "sha256", "metadata"): "\n`key`, `url`, `uid`, `sha256` and `metadata` are as they came.",
}
"""What is said of columns where there are such."""
_CARD = """---
license: {license}
configs:
- config_name: default
  data_files:
  - split: train
    path: {data}
dataset_info:
  features:
{features}task_categories:
- image-to-text
tags:
- image-captioning
- recap-fast
---
# {title}

Captions by recap-fast: {samples}{without}. `re_caption` is the generated caption, `org_caption` the one that came with
the image.{columns}

```python
import datasets

captions = datasets.load_dataset("{repo}", split="train")
```

| what | value |
|---|---|
{facts}
The captions are under the license of the model that wrote them. The images keep their own licenses.{notice}
"""


def export(job: Job) -> None:
    """Writes the files and the card, and uploads them.

    Raises ConfigError where the license is not known, or the repository has other files in their place, and RecapError
    where the Hub refuses or cannot be reached.
    """
    config, result = job.config, job.result
    upload = Upload(config.repo or "", config.private, config.overwrite)
    license = license_of(config, job.joined.run.fingerprint)
    schema = write_files(job)
    if result.problems or result.unfinished or not job.finished:
        result.advice.append(
            "nothing was uploaded, because shards are missing: finish the run, or give --shards only finished ones."
        )
        return
    _write_card(job, card(job, schema, license))
    names = [name for shard, _ in job.finished for name in job.target.made(shard.name)]
    if job.make_way is not None:
        job.make_way()
    url = upload.send(job.target.folder, [CARD, *names], is_watched=job.make_way is not None)
    result.verified = "; ".join(filter(None, (result.verified, "the Hub has each file byte for byte")))
    result.advice.append(f"uploaded to {url}")


def license_of(config: ExportConfig, fingerprint: Mapping[str, object]) -> str:
    """The license of the captions: as it was given, or the model's. Raises ConfigError where neither is known."""
    engine = str(fingerprint.get("engine"))
    known = next((name for start, name in LICENSES.items() if engine.startswith(start)), None)
    if (found := config.license or known) is None:
        raise ConfigError(
            f"the license of the engine {engine} is not known: give --license NAME, as the Hub calls it, or --license "
            "other (https://huggingface.co/docs/hub/repositories-licenses)."
        )
    return found


def card(job: Job, schema: pa.Schema, license: str) -> str:
    """The dataset card. What it says of columns is what the files have, and no text of a run ends its table."""
    counts, made_with = job.result.counts, job.joined.run.fingerprint
    facts = {name: str(made_with[name]) for name in _FACTS if made_with.get(name) is not None}
    if job.config.caption is not None:
        facts["re_caption is of the prompt"] = job.config.caption
    facts |= {f"rows with the flag {name}": f"{num:,}" for name, num in _counted(counts, FLAG)}
    facts |= {f"left out for {name}": f"{num:,}" for name, num in _counted(counts, SKIPPED)}
    without = counts[SAMPLES] - counts[CAPTIONS]
    return _CARD.format(
        license=license,
        data=DATA,
        features=yaml_features(schema),
        columns="".join(text for names, text in _COLUMNS.items() if {*names} <= {*schema.names}),
        title=(job.config.repo or "").partition("/")[2],
        samples=counted(counts[SAMPLES], "image"),
        without=f", {without:,} of them without a caption" if without else "",
        repo=job.config.repo,
        facts="".join(f"| {name} | {cell(html.escape(value, quote=False))} |\n" for name, value in facts.items()),
        notice=f" {_NOTICES[license]}" if license in _NOTICES else "",
    )


def _counted(counts: Mapping[str, int], start: str) -> list[tuple[str, int]]:
    return sorted((name.removeprefix(start), num) for name, num in counts.items() if name.startswith(start))


def _write_card(job: Job, text: str) -> None:
    """Writes the card; one that someone has changed stays."""
    version = hashlib.sha256(text.encode()).hexdigest()
    if job.target.done(NAME, version) is not None:
        return
    try:
        with job.target.draft(NAME, version) as draft:
            draft.file(CARD).write_text(text, encoding="utf-8", newline="\n")
    except ConfigError:
        job.result.advice.append(f"{job.target.folder / CARD} was not written by this export, and is left as it is.")
