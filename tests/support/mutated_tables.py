"""Parquet files with a few wrong bytes, read in a process of their own, which may not crash.

`run` makes and reads them in a child, `python mutated_tables.py SEED NUM FILE`; `check` starts it and says at which
file it died or what it raised.
"""

import io
import json
import os
import random
import resource
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.guard import GUARD_S

import recap_fast
from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard
from recap_fast.shards.reader import open_shard

MEMORY_BYTES = 8 << 30
JPEG = b"\xff\xd8\xff"


def valid_tables() -> list[bytes]:
    """Files with all that the format has: codecs, encodings, versions of pages, checksums, nested types."""
    num = 20
    images = [JPEG + bytes([i]) * 40 for i in range(num)]
    table = pa.table(
        {
            "image": [{"bytes": image, "path": f"{i}.jpg"} for i, image in enumerate(images)],
            "more": [[image, image] for image in images],
            "caption": [f"c{i}" for i in range(num)],
            "tags": [["a", "b"] * (i % 3) for i in range(num)],
            "map": pa.array([[("k", i)] for i in range(num)], pa.map_(pa.string(), pa.int32())),
            "uid": pa.array([uuid.UUID(int=i).bytes for i in range(num)], pa.uuid()),
            "number": [float(i) for i in range(num)],
            "raw": [b"x%d" % i for i in range(num)],
            "label": pa.array(["x", "y"] * (num // 2)).dictionary_encode(),
        }
    )
    files = []
    for codec in ("none", "snappy", "zstd"):
        for bits in range(16):
            file = io.BytesIO()
            pq.write_table(
                table,
                file,
                compression=codec,
                row_group_size=7,
                use_dictionary=bool(bits & 1),
                data_page_version="2.0" if bits & 2 else "1.0",
                write_page_checksum=bool(bits & 4),
                store_schema=bool(bits & 8),
            )
            files.append(file.getvalue())
    return files


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The file with up to five other bytes, most often in its footer."""
    changed = bytearray(content)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first, end = (footer, len(content) - 4) if draw.random() < 0.7 else (4, footer)
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(first, end)
        changed[place] = draw.choice([0, 255, changed[place] ^ (1 << draw.randrange(8)), draw.randrange(256)])
    return bytes(changed)


def read(path: Path, selection: Selection) -> None:
    """Reads a shard as a run does. Raises whatever is no ShardError, and AssertionError where a row is lost."""
    try:
        with open_shard(Shard("s", str(path), "parquet"), selection) as reader:
            indices = []
            for sample in reader.samples(np.empty(0, np.int64)):
                indices.append(sample.index)
                json.loads(sample.metadata or "{}")
            assert indices == sorted(set(indices))
            assert len(indices) == reader.num_samples or reader.problem, (len(indices), reader.num_samples)
    except ShardError:
        pass


def run(seed: int, num: int, path: Path) -> None:
    """In the child."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    draw, tables = random.Random(seed), valid_tables()
    for _ in range(num):
        path.write_bytes(mutated(draw.choice(tables), draw))
        for selection in (Selection(), Selection(images="all")):
            read(path, selection)


def check(seed: int, num: int, path: Path) -> None:
    """In the test; the file that it failed at is left at the path."""
    paths = (Path(__file__).parents[1], Path(recap_fast.__file__).parents[1])  # it may not be installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(seed), str(num), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, env=environment, check=False)
    assert done.returncode == 0, f"{path} ends the process with {done.returncode}:\n{done.stderr}"


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
