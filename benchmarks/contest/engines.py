"""The engines of ours that a contest needs, and the job that it gives to every contestant."""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from contest.peers.protocol import Job
from inputs import workload
from recap_fast.bench.synthetic import write_tars
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.prepared import PreparedEngine

NUM_SHARDS = 4


def find_engine(
    folder: Path, checkpoint: Path, precision: str, recipe: str, mode: str | None, backend: str = "torch"
) -> Path:
    """The checkpoint's engine in a contest's folder; builds it the first time.

    `mode` is how images are preprocessed, for all engines alike; None leaves it to recipe and checkpoint.
    """
    engine = folder / (f"engine-{precision}" if backend == "torch" else f"engine-{backend}-{precision}")
    if not engine.exists():
        spec = build_engine(recipe, checkpoint, engine, precision=precision, backend=backend)
        preprocess = dataclasses.replace(spec.preprocess, mode=mode or spec.preprocess.mode)
        dataclasses.replace(spec, preprocess=preprocess).save(engine)
    return engine


def make_job(
    folder: Path, checkpoint: Path, precision: str, recipe: str, mode: str | None, *, threads: int, device: str
) -> Job:
    """What every contestant is told; precision and recipe are those of the engine that says what the prompt is."""
    engine = find_engine(folder, checkpoint, precision, recipe, mode)
    prepared = PreparedEngine.read(engine)
    spec, prompts = prepared.spec, prepared.prompts
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return Job(
        folder=str(folder),
        checkpoint=str(checkpoint),
        recipe=recipe,
        prefix_ids=prompts.prefix_ids.tolist(),
        suffix_ids=prompts.text_ids({})[0].tolist(),
        stop_ids=list(spec.stop_ids),
        image_token_id=config.get("image_token_index", config.get("image_token_id")),
        num_image_tokens=spec.vision.num_image_tokens,
        image_size=spec.preprocess.image_size,
        mode=spec.preprocess.mode,
        mean=list(spec.preprocess.mean),
        std=list(spec.preprocess.std),
        resample=spec.preprocess.resample,
        precision=precision,
        threads=threads,
        device=device,
        max_new_tokens=workload.LONGEST,
    )


def put_images(
    folder: Path, num_images: int, sizes: Sequence[tuple[int, int]], shards: Sequence[str] | None = None
) -> int:
    """Writes images below `folder`, in tars and one by one; returns how many there are.

    They are made up, widths and heights taken from `sizes` in turn, or the first ones of `shards`. Raises ConfigError
    where those have none.
    """
    for name in ("shards", "images"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if shards:
        images = workload.read_images(shards, num_images)
        if not images:
            raise ConfigError(f"{' '.join(shards)}: none of the images can be decoded.")
        num_images = len(images)
        tars = workload.write_images(folder / "shards", images, num_images, -(-num_images // NUM_SHARDS))
    else:
        tars = write_tars(folder / "shards", num_images, sizes, per_shard=-(-num_images // NUM_SHARDS))
    for path in tars:
        with tarfile.open(path) as tar:
            tar.extractall(folder / "images", [m for m in tar if m.name.endswith(".jpg")], filter="data")
    return num_images
