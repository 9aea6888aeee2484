"""All that decides what the rows of a run say."""

from collections.abc import Mapping

from recap_fast.generate.spec import EngineSpec
from recap_fast.launch.config import RunConfig
from recap_fast.machine import list_versions
from recap_fast.write.schema import SCHEMA_VERSION


def fingerprint(config: RunConfig, spec: EngineSpec, decoder: str) -> Mapping[str, str | int | bool | None]:
    """It by name; `spec` is the engine's, with the run's question, `decoder` the name of the one that is used.

    Two runs may share an output folder only where these are equal. What merely decides how fast rows are made (slots,
    threads, the device) is left out, and so is the pixel limit: with another one, `--retry-failed` may rescue rows.
    """
    s, pre = config.options.sampling, spec.preprocess
    sampled = f"temperature {s.temperature}, top_k {s.top_k}, top_p {s.top_p}, seed {s.seed}"
    return {
        "versions": list_versions(spec.backend, decoder),
        "schema": SCHEMA_VERSION,
        "engine": spec.name,
        **{f"engine.{name}": digest for name, digest in sorted(spec.files.items())},
        "precision": spec.precision,
        "kv_precision": spec.kv_precision,
        "template": spec.prompt.template,
        "prompt": spec.prompt.text,
        "max_field_tokens": config.max_field_tokens,
        "preprocess": f"{pre.mode} {pre.image_size}, mean {pre.mean}, std {pre.std}",
        "decoder": decoder,
        "image_column": config.image_column,
        "caption_column": config.caption_column,
        "stop_ids": ",".join(map(str, spec.stop_ids)),
        "max_new_tokens": config.options.max_new_tokens or spec.limits.max_new_tokens,
        "loop_stop": config.options.loop_stop,
        "sampling": "greedy" if s.temperature == 0 else sampled,
    }
