"""How far precisions and decoders agree: the demo engine on drawn scenes, beside float32 on Pillow's pixels.

For each pair of precision and decoder: the share of captions that are the whole truth, and the share that is the same,
word for word, as the reference's. A wrong pixel, token or order would show here as a wrong caption.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
from make_shards import make_shards

import recap_fast
from suite import demo
from suite.setting import Findings, Setting

REFERENCE = ("float32", "pillow")
VARIANTS = (REFERENCE, ("float32", "dali"), ("bfloat16", "pillow"), ("int8", "pillow"), ("fp8", "pillow"))
SCENES, TINY_SCENES = 1000, 24
Captions = dict[str, tuple[str, str]]
"""Caption and finish reason, by shard/index."""


def run(setting: Setting) -> Findings:
    """All variants; one that cannot be had here costs no other."""
    found, shards = setting.find("agreement"), setting.work / "agreement-scenes"
    if not shards.is_dir():
        make_shards(shards, num_shards=1, num_samples=SCENES if setting.is_real else TINY_SCENES, seed=demo.SEED)
    truth: dict[str, str] = json.loads((shards / "truth.json").read_text(encoding="utf-8"))
    reference: Captions = {}
    for precision, decoder in VARIANTS:
        with found.trying(f"{precision}, {decoder}"):
            captions = caption(setting, precision, shards, decoder)
            reference = reference or captions
            row = {
                "scenes": len(truth),
                "right": sum(captions[name][0] == text for name, text in truth.items()) / len(truth),
                "as_reference": sum(c[0] == reference[name][0] for name, c in captions.items()) / len(captions),
                "loops": sum(reason == "loop" for _, reason in captions.values()),
            }
            found.details[f"{precision}, {decoder}"] = row
            found.add(f"{precision}, {decoder}: captions as float32's, Pillow's pixels", f"{row['as_reference']:.1%}")
            found.add("   the whole truth; loops", f"{row['right']:.1%}; {row['loops']}")
    return found


def caption(setting: Setting, precision: str, shards: Path, decoder: str) -> Captions:
    """What the demo engine says of every image that it can read."""
    output = setting.work / f"agreement-{precision}-{decoder}"
    engine = demo.build(setting, precision)
    recap_fast.run(engine, f"{shards}/*.tar", output, device=setting.device, decoder=decoder, overwrite=True)
    rows = [row for path in sorted(output.glob("data/**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {f"{r['shard']}/{r['index']}": (r["re_caption"], r["finish_reason"]) for r in rows if r["status"] == "ok"}
