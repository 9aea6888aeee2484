"""How far precisions and decoders agree: the demo engine on drawn scenes, beside float32 on Pillow's pixels.

    python benchmarks/agreement.py --scenes 1000 --json benchmarks/results/DATE_MACHINE_agreement.json

For each pair of precision and decoder: the share of captions that are the whole truth, and the share that is the same,
word for word, as the reference's. A wrong pixel, token or order would show here as a wrong caption.
"""

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from recap_fast.bench.report import provenance
from recap_fast.build.engine_directory import build_engine
from recap_fast.decode.decoder import DEFAULT_MAX_IMAGE_PIXELS
from recap_fast.launch.config import RunConfig, default_decode_threads
from recap_fast.launch.execute import run
from recap_fast.launch.reporter import Reporter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "demo"))
from make_shards import make_shards  # noqa: E402

REFERENCE = ("float32", "pillow")
VARIANTS = (REFERENCE, ("float32", "dali"), ("bfloat16", "pillow"), ("int8", "pillow"), ("fp8", "pillow"))
Captions = dict[str, tuple[str, str]]


def caption(engine: Path, shards: Path, output: Path, decoder: str) -> Captions:
    """Caption and finish reason of every captioned image, by shard/index."""
    config = RunConfig(
        engine=engine,
        shards=(str(shards),),
        output=output,
        decoder=decoder,
        decode_threads=default_decode_threads(),
        max_image_pixels=DEFAULT_MAX_IMAGE_PIXELS,
    )
    run(config, Reporter(stream=io.StringIO()))
    rows = [row for path in sorted(output.glob("data/**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {f"{r['shard']}/{r['index']}": (r["re_caption"], r["finish_reason"]) for r in rows if r["status"] == "ok"}


def compare(checkpoint: Path, num_scenes: int) -> list[dict[str, str | int | float]]:
    """One row of figures for each of `VARIANTS`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shards(folder / "shards", num_shards=1, num_samples=num_scenes, seed=10**6)
        truth: dict[str, str] = json.loads((folder / "shards/truth.json").read_text(encoding="utf-8"))
        (folder / "shards/truth.json").unlink()
        found: dict[tuple[str, str], Captions] = {}
        for precision, decoder in VARIANTS:
            engine = folder / precision
            if not engine.exists():
                build_engine("recap_tiny", checkpoint, engine, precision=precision)
            found[precision, decoder] = caption(engine, folder / "shards", folder / f"{precision}-{decoder}", decoder)
    reference = found[REFERENCE]
    return [
        {
            "precision": precision,
            "decoder": decoder,
            "scenes": len(truth),
            "right": sum(captions[name][0] == text for name, text in truth.items()) / len(truth),
            "as_reference": sum(c[0] == reference[name][0] for name, c in captions.items()) / len(captions),
            "loops": sum(reason == "loop" for _, reason in captions.values()),
        }
        for (precision, decoder), captions in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo/recap-tiny")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = compare(args.checkpoint, args.scenes)
    print(f"{'precision':<10}{'decoder':<9}{'scenes':>7}{'right':>9}{'as float32, pillow':>20}{'loops':>7}")
    for r in rows:
        shares = f"{r['right']:>9.1%}{r['as_reference']:>20.1%}"
        print(f"{r['precision']:<10}{r['decoder']:<9}{r['scenes']:>7}{shares}{r['loops']:>7}")
    if args.json:
        about = provenance(["python", *sys.argv])
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
