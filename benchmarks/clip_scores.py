"""How much faster `recap-fast score` is than a plain loop with transformers, on the demo's captions with its CLIP.

    python benchmarks/clip_scores.py --output benchmarks/results/DATE_MACHINE_clip-scores

Both read the same output and the same tars, in turn, in one process that has the model loaded. The loop takes 32 images
at a time, opens them with Pillow, and has them and their captions made into tensors by the model's own processor; each
batch of captions is padded to its longest. Rates are those of the median turn. The processor time does not depend as
much on what else the machine does. The scores are compared as well.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps

from inputs.report import write_report
from recap_fast.api import run
from recap_fast.bench.report import provenance
from recap_fast.build.engine_directory import build_engine
from recap_fast.cpus import default_decode_threads
from recap_fast.errors import ExitCode
from recap_fast.joined import JoinedOutput
from recap_fast.score.clip import CPU_BATCH, ClipScorer
from recap_fast.score.clip_folder import ClipFolder
from recap_fast.score.scoring import Scoring
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import read_rows

DEMO = Path(__file__).parents[1] / "demo"
BATCH = 32
TARGET, TOLERANCE = 2.0, 1e-4
"""How many times as fast, and how far a score may be off."""
Scores = Mapping[tuple[str, int], tuple[float, float]]


@dataclass(frozen=True)
class Turn:
    """One pass over all images."""

    images: int
    seconds: float
    cpu_s: float
    """Processor time of this process."""

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def cpu_ms_per_image(self) -> float:
        return 1000 * self.cpu_s / self.images


def timed(images: int, begun: tuple[float, float]) -> Turn:
    """The turn that began at these two times, those of the clock and of the processor."""
    return Turn(images, time.perf_counter() - begun[0], time.process_time() - begun[1])


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def prepare(work: Path, num_shards: int, num_images: int) -> OutputFolder:
    """The output of a run of the demo's engine over the demo's shards."""
    sizes = ["--shards", str(num_shards), "--samples", str(num_images)]
    command = [sys.executable, str(DEMO / "make_shards.py"), "--output", str(work / "shards"), *sizes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    build_engine("recap_tiny", DEMO / "recap-tiny", work / "engine")
    result = run(work / "engine", str(work / "shards" / "*.tar"), work / "out", device="cpu", decoder="pillow")
    if result.outcome != ExitCode.COMPLETE:
        raise SystemExit(f"the run ended with {result.outcome.name}")
    return OutputFolder.at(work / "out")


class Plain:
    """What people write: transformers' model and processor in a loop."""

    def __init__(self, folder: Path):
        import transformers

        self._model = transformers.CLIPModel.from_pretrained(folder).eval()
        images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        self._processor = transformers.CLIPProcessor(images, transformers.AutoTokenizer.from_pretrained(folder))

    def turn(self, output: OutputFolder, shards: Path) -> tuple[Turn, Scores]:
        """Scores all captions."""
        begun, found = now(), {}
        for file in sorted((Path(output.address) / "data").rglob("*.parquet")):
            rows = [row for row in pq.read_table(file).to_pylist() if row["status"] == "ok"]
            with tarfile.open(shards / f"{file.stem}.tar") as tar:
                members: dict[str, list[tarfile.TarInfo]] = {}
                for member in tar:  # a few names come twice in the demo's shards
                    members.setdefault(member.name, []).append(member)
                for first in range(0, len(rows), BATCH):
                    batch = rows[first : first + BATCH]
                    images = [self._open(tar, members[row["file_name"]].pop(0)) for row in batch]
                    pairs = zip(*self._score(images, batch), strict=True)
                    found.update(zip(((row["shard"], row["index"]) for row in batch), pairs, strict=True))
        return timed(len(found), begun), found

    def _open(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Image.Image:
        file = tar.extractfile(member)
        assert file is not None
        return ImageOps.exif_transpose(Image.open(io.BytesIO(file.read()))).convert("RGB")

    @torch.inference_mode()
    def _score(self, images: list[Image.Image], rows: list[dict[str, Any]]) -> Iterator[list[float]]:
        pixels = self._model.get_image_features(**self._processor(images=images, return_tensors="pt")).pooler_output
        for column in ("re_caption", "org_caption"):
            texts = [row[column] for row in rows]
            tokens = self._processor(text=texts, return_tensors="pt", padding=True, truncation=True)
            features = self._model.get_text_features(**tokens).pooler_output
            yield (100 * torch.cosine_similarity(pixels, features)).tolist()


def ours(output: OutputFolder, scorer: ClipScorer) -> tuple[Turn, Scores]:
    """The same by `score`, files and all; scores of the turn before are removed first."""
    output.store.delete([file.name for file in output.store.list("scores")])
    begun = now()
    scoring = Scoring(JoinedOutput.open(output), scorer)
    scoring.run()
    turn, found = timed(scoring.num_scored, begun), {}
    for shard in scoring.joined.shards:
        for batch in read_rows(output, shard.name, ["index", "re_clip_score", "org_clip_score"]):
            for row in batch.to_pylist():
                if row["re_clip_score"] is not None:
                    found[shard.name, row["index"]] = row["re_clip_score"], row["org_clip_score"]
    return turn, found


def measure(args: argparse.Namespace, work: Path) -> tuple[dict[str, list[Turn]], float]:
    """The turns of both, and the largest difference of any score. The first turns warm up and do not count."""
    output = prepare(work, args.shards, args.images)
    plain = Plain(args.model)
    options = {"decode_threads": args.decode_threads, "batch_size": args.batch_size}
    scorer = ClipScorer(ClipFolder.open(args.model), "cosine", torch.device("cpu"), **options)
    turns: dict[str, list[Turn]] = {"plain": [], "score": []}
    largest = 0.0
    for number in range(args.repeat + 1):
        scores: dict[str, Scores] = {}
        for kind in ("plain", "score") if number % 2 else ("score", "plain"):
            done, scores[kind] = plain.turn(output, work / "shards") if kind == "plain" else ours(output, scorer)
            print(f"{kind}: {done.images_per_s:.1f} images/s, {done.cpu_ms_per_image:.2f} ms", file=sys.stderr)
            if number:
                turns[kind].append(done)
        assert scores["plain"].keys() == scores["score"].keys()
        pairs = [(scores["plain"][key], scores["score"][key]) for key in scores["plain"]]
        largest = max(largest, *(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)))
    scorer.close()
    return turns, largest


def table(turns: dict[str, list[Turn]], largest: float) -> tuple[str, float]:
    """The figures as markdown, and the ratio."""
    rates = {kind: statistics.median(each.images_per_s for each in done) for kind, done in turns.items()}
    cpu = {kind: statistics.median(each.cpu_ms_per_image for each in done) for kind, done in turns.items()}
    ratio = rates["score"] / rates["plain"]
    by_pairs = [ours.images_per_s / plain.images_per_s for plain, ours in zip(*turns.values(), strict=True)]
    lines = ["| what | images/s | of each turn | CPU ms an image |", "|---|---|---|---|"]
    for kind, done in turns.items():
        each = ", ".join(f"{turn.images_per_s:.1f}" for turn in done)
        lines.append(f"| {kind} | {rates[kind]:.1f} | {each} | {cpu[kind]:.2f} |")
    lines += [
        "",
        f"score over plain: {ratio:.2f} by the medians, {statistics.median(by_pairs):.2f} by pairs, "
        f"{cpu['plain'] / cpu['score']:.2f} by processor time. At least {TARGET:g} is wanted.",
        f"Largest difference of a score, of 100 times the cosine: {largest:.1e}. At most {TOLERANCE:g} is wanted.",
    ]
    return "\n".join(lines), ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO / "recap-tiny-clip", help="folder of a CLIP")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--images", type=int, default=500, help="of each shard")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each")
    parser.add_argument("--batch-size", type=int, default=CPU_BATCH, help="of score")
    parser.add_argument("--decode-threads", type=int, default=default_decode_threads(), help="of score")
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        turns, largest = measure(args, Path(work))
    text, ratio = table(turns, largest)
    print(text)
    if args.output is not None:
        found = {
            "ratio": ratio,
            "difference": largest,
            "turns": {kind: [*map(asdict, done)] for kind, done in turns.items()},
        }
        write_report(args.output, "CLIP scores", provenance(["python", *sys.argv]), found, text)
    return 0 if ratio >= TARGET and largest <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
