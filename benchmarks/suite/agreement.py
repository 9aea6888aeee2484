"""How far precisions and decoders agree: the demo engine on drawn scenes, beside float32 on Pillow's pixels.

For each variant: the share of captions that are the whole truth, and the share that is the same, word for word, as the
reference's. A wrong pixel, token or order would show here as a wrong caption. With an FP8 cache also the share that is
the same as without one, all else being equal.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from make_shards import make_shards

import recap_fast
from recap_fast.generate.spec import KVPrecision
from suite import demo
from suite.setting import Findings, Setting


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine and decoder to compare."""

    precision: str
    decoder: str = "pillow"
    kv_precision: KVPrecision = "auto"

    def __str__(self) -> str:
        cache = f" with {self.kv_precision} cache" if self.kv_precision != "auto" else ""
        return f"{self.precision}{cache}, {self.decoder}"


REFERENCE = Variant("float32")
VARIANTS = (
    REFERENCE,
    Variant("float32", decoder="dali"),
    Variant("bfloat16"),
    Variant("bfloat16", kv_precision="fp8"),
    Variant("int8"),
    Variant("fp8"),
    Variant("fp8", kv_precision="fp8"),
)
SCENES, TINY_SCENES = 1000, 24
Captions = dict[str, tuple[str, str]]
"""Caption and finish reason, by shard/index."""


def run(setting: Setting) -> Findings:
    """All variants; one that cannot be had here costs no other."""
    found, shards = setting.find("agreement"), setting.work / "agreement-scenes"
    if not shards.is_dir():
        make_shards(shards, num_shards=1, num_samples=SCENES if setting.is_real else TINY_SCENES, seed=demo.SEED)
    truth: dict[str, str] = json.loads((shards / "truth.json").read_text(encoding="utf-8"))
    made: dict[Variant, Captions] = {}
    for variant in VARIANTS:
        with found.trying(str(variant)):
            captions = made[variant] = caption(setting, variant, shards)
            row = {
                "scenes": len(truth),
                "right": sum(captions[name][0] == text for name, text in truth.items()) / len(truth),
                "as_reference": share_equal(captions, made[REFERENCE]),
                "loops": sum(reason == "loop" for _, reason in captions.values()),
            }
            found.details[str(variant)] = row
            found.add(f"{variant}: captions as float32's", f"{row['as_reference']:.1%}")
            found.add("   the whole truth; loops", f"{row['right']:.1%}; {row['loops']}")
            same = replace(variant, kv_precision="auto")
            if same != variant and same in made:
                row["as_auto_cache"] = share_equal(captions, made[same])
                found.add(f"   captions as {same.precision}'s without an FP8 cache", f"{row['as_auto_cache']:.1%}")
    return found


def caption(setting: Setting, variant: Variant, shards: Path) -> Captions:
    """What the demo engine says of every image that it can read."""
    output = setting.work / f"agreement-{str(variant).replace(', ', '-').replace(' ', '-')}"
    engine = demo.build(setting, variant.precision, variant.kv_precision)
    shutil.rmtree(output, ignore_errors=True)
    recap_fast.run(engine, f"{shards}/*.tar", output, device=setting.device, decoder=variant.decoder, dedup=False)
    rows = [row for path in sorted(output.glob("data/**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {f"{r['shard']}/{r['index']}": (r["re_caption"], r["finish_reason"]) for r in rows if r["status"] == "ok"}


def share_equal(captions: Captions, others: Captions) -> float:
    """The share of captions that are word for word the same."""
    return sum(text == others[name][0] for name, (text, _) in captions.items()) / len(captions)
