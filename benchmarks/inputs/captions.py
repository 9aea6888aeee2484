"""Outputs of runs that never were: any number of rows, with words that are as frequent as in real captions.

    python benchmarks/inputs/captions.py FOLDER --rows 1000000            # FOLDER/out, of inputs that are gone
    python benchmarks/inputs/captions.py FOLDER --rows 10000 --images     # FOLDER/in as well: tars of small pictures

The files are those of a finished run: run.json, data/ and done-records, written by the writers of a run. Words are
drawn by Zipf's law (the k-th word of a vocabulary has the weight 1 / (k + 2.7), Mandelbrot's form); captions have about
50 words and original ones about 10, as in Recap-DataComp-1B. The same arguments give the same rows.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from recap_fast.arrow_core import core
from recap_fast.atomic import sha256_of
from recap_fast.records import OK, SCHEMA_VERSION, Identity, OutputFile, Selection, Shard, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.write.done_record import write_record
from recap_fast.write.merge import MADE_WITH_KEY
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile, Usage, find_versions, write_run_file
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import SHARD_KEY, count_flags, count_statuses

NUM_WORDS = {"re": 30_000, "org": 60_000}
"""In each vocabulary."""
MEAN_WORDS = {"re": 49.43, "org": 10.22}
"""Of a caption (Li et al. 2024, What If We Recaption Billions of Web Images with LLaMA-3, section 4)."""
OPENINGS = ("The image shows", "The image features", "In the image there is", "A close-up of", "This is")
SHARES = {"failed": 0.01, "loop": 0.004, "length": 0.03, "no_org": 0.02, "flagged": 0.05}
"""Of rows."""
FLAGS = ([], ["stock_opening"], ["loop"], ["stock_opening", "loop"])
BATCH_ROWS = 20_000
FINGERPRINT = {
    "versions": "recap-fast 0.1.0, torch 2.9.0, pillow 12.0.0",
    "schema": SCHEMA_VERSION,
    "engine": "made_up",
    "engine.weights.safetensors": hashlib.sha256(b"weights").hexdigest(),
    "precision": "bfloat16",
    "prompt": "Please generate a detailed caption of this image. Please be as descriptive as possible.",
    "decoder": "pillow",
    **{name: getattr(Selection(), name) for name in Selection.__dataclass_fields__},
    "max_new_tokens": 128,
    "sampling": "greedy",
}


def write_output(
    folder: Path, num_rows: int, *, per_shard: int = 10_000, seed: int = 0, images: bool = False
) -> OutputFolder:
    """Writes `folder`/out, and with `images` the tars that it was made of to `folder`/in; returns the output.

    Every image has bytes of its own, so that no two have the same SHA-256.
    """
    output, root = OutputFolder.at(folder / "out"), folder.absolute() / "in"
    output.store.make_root()
    firsts = range(0, num_rows, per_shard)
    shards = {f"{n:05d}": Shard(f"{n:05d}", str(root / f"{n:05d}.tar"), "tar") for n in range(len(firsts))}
    words = {kind: _vocabulary(kind) for kind in NUM_WORDS}
    for (name, shard), first in zip(shards.items(), firsts, strict=True):
        rng = np.random.default_rng([seed, first])
        numbers = range(first, min(first + per_shard, num_rows))
        digests = _write_tar(Path(shard.url), numbers) if images else [_digest(b"%d" % n) for n in numbers]
        read = identity(shard) if images else Identity(1, "1")
        _write_shard(output, name, _rows(rng, words, name, numbers, digests, read.text), read)
    usage = {"NVIDIA H100 80GB HBM3": Usage(1, num_rows, num_rows / 30, is_gpu=True)}
    run = RunFile(FINGERPRINT, str(root), {name: shard.url for name, shard in shards.items()}, usage=usage)
    write_run_file(output, run, find_versions(output))
    return output


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _vocabulary(kind: str) -> pa.Array:
    """Words of letters, long ones rare; half of the captions' words are the original captions', too."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    shared = np.random.default_rng(0)
    count = NUM_WORDS[kind]
    lengths = np.minimum(2 + (np.log2(np.arange(count) + 2) / 2).astype(int), 12)
    letters = [(shared if n % 2 else rng).integers(97, 123, length) for n, length in enumerate(lengths)]
    return pa.array([bytes(each.tolist()).decode() for each in letters])


def _texts(
    rng: np.random.Generator, words: pa.Array, num_words: NDArray[np.int64], starts: Sequence[str] = ("",)
) -> pa.Array:
    """Texts with so many words each, which end in a full stop, after one of some starts."""
    weights = 1 / (np.arange(len(words)) + 2.7)
    drawn = rng.choice(len(words), int(num_words.sum()), p=weights / weights.sum())
    offsets = np.concatenate([[0], np.cumsum(num_words)]).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words.take(pa.array(drawn))), " ")
    opening = pa.array(starts).take(pa.array(rng.integers(0, len(starts), len(num_words))))
    return pc.binary_join_element_wise(
        pc.utf8_ltrim_whitespace(pc.binary_join_element_wise(opening, joined, " ")), ".", ""
    )


def _rows(
    rng: np.random.Generator,
    words: Mapping[str, pa.Array],
    shard: str,
    numbers: range,
    digests: Sequence[str],
    version: str,
) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(numbers), BATCH_ROWS):
        some = numbers[first : first + BATCH_ROWS]
        count = len(some)
        chances = {name: rng.random(count) < share for name, share in SHARES.items()}
        is_bad = pa.array(chances["failed"])
        lengths = {kind: 1 + rng.poisson(mean - 1, count) for kind, mean in MEAN_WORDS.items()}
        org = pc.if_else(pa.array(chances["no_org"]), None, _texts(rng, words["org"], lengths["org"]))
        re = pc.if_else(is_bad, None, _texts(rng, words["re"], lengths["re"] - 3, OPENINGS))
        reasons = np.select(
            [chances["failed"], chances["loop"], chances["length"]], ["error", "loop", "length"], "stop"
        )
        flags = chances["flagged"] + 2 * chances["loop"]
        status = pa.array(np.where(chances["failed"], rng.choice(["truncated", "not_an_image"], count), OK).tolist())
        columns = {
            "url": pa.array([f"https://images.example/{number}.jpg" for number in some]),
            "re_caption": re,
            "org_caption": org,
            "sha256": pa.array(digests[first : first + count]),
            "key": pa.array([f"{number:09d}" for number in some]),
            "file_name": pa.array([f"{number:09d}.jpg" for number in some]),
            "re_length": _count_words(re),
            "org_length": _count_words(org),
            "uid": pa.array([hashlib.md5(b"%d" % number).hexdigest() for number in some]),
            "shard": pa.array([shard] * count),
            "input_version": pa.array([version] * count),
            "index": pa.array(np.arange(first, first + count)),
            "width": pc.if_else(is_bad, None, pa.scalar(96, pa.int32())),
            "height": pc.if_else(is_bad, None, pa.scalar(64, pa.int32())),
            "status": status,
            "error": pc.if_else(is_bad, "The file ends too early.", None),
            "finish_reason": pa.array(reasons.tolist()),
            "num_tokens": pc.if_else(is_bad, None, pa.array(lengths["re"] * 4 // 3, pa.int32())),
            "flags": pa.array([FLAGS[number] for number in flags], pa.list_(pa.string())),
        }
        missing = {field.name: pa.nulls(count, field.type) for field in SCHEMA}
        yield pa.RecordBatch.from_pydict({**missing, **columns}, schema=SCHEMA)


def _count_words(texts: pa.Array) -> pa.Array:
    return pc.list_value_length(pc.utf8_split_whitespace(texts)).cast(pa.int64())


def _write_shard(output: OutputFolder, shard: str, batches: Iterator[pa.RecordBatch], read: Identity) -> None:
    """Its captions and its done-record, as `write.shard_writer` makes them."""
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    num_tokens = 0
    metadata = {MADE_WITH_KEY: "[]", SHARD_KEY: shard}
    with output.store.draft(output.data(shard)) as draft:
        with core.ParquetWriter(draft, SCHEMA, max_row_group_rows=800, key_value_metadata=metadata) as writer:
            for batch in batches:
                writer.write(batch)
                statuses += count_statuses(batch)
                flags += count_flags(batch)
                num_tokens += pc.sum(batch["num_tokens"]).as_py() or 0
        written = OutputFile(sha256_of(draft), draft.stat().st_size)
        output.store.publish(draft, output.data(shard))
    report = ShardReport(
        shard=shard,
        status="complete",
        num_tokens=num_tokens,
        input=read,
        output=written,
        finished_ns=1,
    )
    write_record(output, report.with_rows(statuses, flags))


def _write_tar(path: Path, numbers: range) -> list[str]:
    """One in img2dataset's layout; the SHA-256 of each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures, digests = [_jpeg(seed) for seed in range(32)], []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            comment = b"%d" % number  # JPEG's segment COM: other bytes, the same picture
            head = b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            image, key = head + pictures[number % 32][2:], f"{number:09d}"
            digests.append(_digest(image))
            uid = hashlib.md5(comment).hexdigest()
            fields = {"key": key, "uid": uid, "url": f"https://images.example/{number}.jpg", "sha256": digests[-1]}
            for suffix, content in (("jpg", image), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return digests


def _jpeg(seed: int) -> bytes:
    """A picture of 96 x 64 pixels, of some 2 kB."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(cells).resize((96, 64), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", action="store_true", help="write the tars that the rows are of")
    args = parser.parse_args()
    output = write_output(args.folder, args.rows, per_shard=args.per_shard, seed=args.seed, images=args.images)
    print(output.address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
