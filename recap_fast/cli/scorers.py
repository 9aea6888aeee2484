"""The scorer and the sample of images that the options of `recap-fast score` ask for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recap_fast.errors import ConfigError

if TYPE_CHECKING:
    from recap_fast.score.sample import Sample
    from recap_fast.score.scorer import Scorer


def make_sample(given: dict[str, Any]) -> "Sample | None":
    """The sample for --sample and --seed; None means all images. Raises ConfigError."""
    from recap_fast.score.sample import Sample

    if given["sample"] is None:
        return None
    if given["sample"] < 1:
        raise ConfigError(f"--sample {given['sample']}: give a number of images of at least 1.")
    return Sample(given["sample"], given["seed"])


def make_scorer(given: dict[str, Any], announce: Callable[[str], None]) -> "Scorer":
    """The scorer for --kind and its options; `announce` gets a sentence about the cost. Raises ConfigError."""
    kind, rate = given["kind"], given["max_error_rate"]
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"--max-error-rate {rate}: give a share from 0 to 1.")
    if kind != "rating" and (given["endpoint"] or given["judge"]):
        raise ConfigError(
            f"--endpoint and --judge are for --kind rating, and the kind is {kind}: give the one you mean."
        )
    if kind == "rating" and given["model"]:
        raise ConfigError("--model is for the other kinds: --kind rating takes --endpoint URL and --judge NAME.")
    return _make_rating(given, announce) if kind == "rating" else _make_clip(given)


def _make_rating(given: dict[str, Any], announce: Callable[[str], None]) -> "Scorer":
    from recap_fast.score.judge import Judge
    from recap_fast.score.rating import RatingScorer

    for name in ("endpoint", "judge"):
        if not given[name]:
            raise ConfigError(f"--{name} is missing: --kind rating needs --endpoint URL and --judge NAME.")
    if given["concurrency"] < 1:
        raise ConfigError(f"--concurrency {given['concurrency']}: give a count of at least 1.")
    judge = Judge(given["judge"], given["endpoint"])
    return RatingScorer(judge, given["concurrency"], given["price_per_million_tokens"], announce)


def _make_clip(given: dict[str, Any]) -> "Scorer":
    from recap_fast.cpus import default_decode_threads
    from recap_fast.generate.device import resolve_device
    from recap_fast.score.clip import CPU_BATCH, GPU_BATCH, ClipScorer
    from recap_fast.score.clip_folder import ClipFolder

    if given["model"] is None:
        raise ConfigError("--model is missing: give the folder of a CLIP, LongCLIP or SigLIP.")
    device = resolve_device(given["device"])
    for name in ("batch_size", "decode_threads"):
        if given[name] is not None and given[name] < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {given[name]}: give a count of at least 1.")
    return ClipScorer(
        ClipFolder.open(given["model"]),
        given["kind"],
        device,
        given["precision"],
        given["decoder"],
        given["decode_threads"] or default_decode_threads(),
        given["batch_size"] or (CPU_BATCH if device.type == "cpu" else GPU_BATCH),
    )
