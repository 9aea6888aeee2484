"""transformers' `generate` beside recap-fast: same checkpoint, same images, same output lengths, same thread count.

    python benchmarks/compare_hf.py --output benchmarks/results/DATE_MACHINE_compare-hf

Passes of both alternate in one process; loading and warm-up are not timed. recap-fast is timed from tars to renamed
Parquet files, transformers from JPEG bytes to token ids: it is charged for decoding, resizing and generating, and not
for reading tars, detokenising and writing. Exits with 1 unless all captions have their length and are equal.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from models import SIZES, make_checkpoint
from transformers import LlavaForConditionalGeneration
from transformers.utils.logging import disable_progress_bar
from workload import MismatchError, Pass, RecapFast, Workload, check, fixed_lengths, varied_lengths

from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.measurement import provenance

WARM_UP_TOKENS = 4
LENGTHS = {"fixed": fixed_lengths, "varied": varied_lengths}


class Contestant(Protocol):
    """Something that captions a workload."""

    name: str

    def run(self, lengths: Sequence[int]) -> Pass:
        """Captions all images, each with so many tokens."""


class Transformers:
    """`LlavaForConditionalGeneration.generate` on static batches: each runs to its longest caption, the rest is cut."""

    def __init__(self, workload: Workload, model: LlavaForConditionalGeneration, batch: int, decode_threads: int):
        self.name = f"transformers, batch {batch}"
        self._workload, self._model, self._batch = workload, model, batch
        spec = EngineSpec.load(workload.engine)
        prompts = PromptEncoder(load_tokenizer(workload.engine), spec.prompt, 128, spec.limits.max_text_tokens)
        image = [model.config.image_token_id] * spec.vision.num_image_tokens
        self._prompt = torch.tensor([*prompts.prefix_ids.tolist(), *image, *prompts.text_ids({})[0].tolist()])
        self._decoder = make_decoder("pillow", spec.preprocess, num_threads=decode_threads)
        self._mean, self._std = (torch.tensor(v)[:, None, None] for v in (spec.preprocess.mean, spec.preprocess.std))

    @torch.inference_mode()
    def run(self, lengths: Sequence[int]) -> Pass:
        """Decodes, resizes and captions a batch at a time."""
        captions: list[list[int]] = []
        start = time.perf_counter()
        for first in range(0, len(lengths), self._batch):
            wanted = lengths[first : first + self._batch]
            ids = self._generate(self.pixel_values(self._workload.images[first : first + self._batch]), max(wanted))
            captions += [row[:length] for row, length in zip(ids, wanted, strict=True)]
        return Pass(time.perf_counter() - start, captions)

    def pixel_values(self, images: Sequence[bytes]) -> torch.Tensor:
        """Float32 [n, 3, H, W], equal to those of transformers' own processor and made in a third of its time."""
        return (torch.from_numpy(self._decoder.decode(images).pixels).float() / 255 - self._mean) / self._std

    def close(self) -> None:
        """Ends the decoder's threads."""
        self._decoder.close()

    def _generate(self, pixel_values: torch.Tensor, num_tokens: int) -> list[list[int]]:
        input_ids = self._prompt.expand(len(pixel_values), -1)
        out = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=pixel_values,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return out[:, input_ids.shape[1] :].tolist()


def load_model(checkpoint: Path) -> LlavaForConditionalGeneration:
    """The checkpoint in float32 with torch's fused attention; it never stops by itself."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    model.generation_config.eos_token_id = None
    return model.eval()


@dataclass(frozen=True)
class Comparison:
    """Seconds of every pass, by contestant, for one kind of lengths."""

    lengths: list[int]
    seconds: dict[str, list[float]]
    num_distinct: int
    """Different captions."""

    @property
    def rates(self) -> dict[str, float]:
        """Images/s of the median pass."""
        return {name: len(self.lengths) / statistics.median(passes) for name, passes in self.seconds.items()}

    @property
    def best_peer(self) -> str:
        """The fastest but for recap-fast."""
        return max((name for name in self.rates if name != RecapFast.name), key=self.rates.__getitem__)

    @property
    def ratio(self) -> float:
        """recap-fast's rate over the best peer's."""
        return self.rates[RecapFast.name] / self.rates[self.best_peer]

    def table(self, title: str) -> str:
        """For people."""
        mean = statistics.mean(self.lengths)
        lines = [
            f"{title}: {len(self.lengths)} images, {min(self.lengths)}-{max(self.lengths)} tokens, mean {mean:.1f}; "
            f"{self.num_distinct} different captions, all equal",
            f"{'':<26}{'images/s':>10}{'tokens/s':>10}   seconds of each pass",
        ]
        for name, rate in self.rates.items():
            passes = " ".join(f"{s:.2f}" for s in self.seconds[name])
            lines.append(f"{name:<26}{rate:>10.1f}{rate * mean:>10.0f}   {passes}")
        return "\n".join([*lines, f"recap-fast is {self.ratio:.2f} times as fast as {self.best_peer}"])

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        rates = {name: round(rate, 3) for name, rate in self.rates.items()}
        return {
            "lengths": self.lengths,
            "seconds": self.seconds,
            "images_per_s": rates,
            "different_captions": self.num_distinct,
            "best_peer": self.best_peer,
            "ratio": round(self.ratio, 3),
        }


def compare(contestants: Sequence[Contestant], lengths: Sequence[int], repeat: int) -> Comparison:
    """Lets all run in turn, `repeat` times. Raises MismatchError where any output is not the same as the first."""
    for contestant in contestants:
        contestant.run([min(WARM_UP_TOKENS, length) for length in lengths])
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    truth: list[list[int]] | None = None
    for _ in range(repeat):
        for contestant in contestants:
            done = contestant.run(lengths)
            truth = done.captions if truth is None else truth
            check(contestant.name, done.captions, lengths, truth)
            seconds[contestant.name].append(round(done.seconds, 4))
    return Comparison(list(lengths), seconds, len(set(map(tuple, truth or []))))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="6m", help="random model to make")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint to use instead")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32], help="batch sizes of transformers")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, for both")
    parser.add_argument("--num-slots", type=int, help="of recap-fast; the engine's default otherwise")
    parser.add_argument("--prefill-images", type=int)
    parser.add_argument("--output", type=Path, help="write PATH.json and PATH.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison and returns the exit code."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    decode_threads = max(1, args.threads // 2)
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        checkpoint = args.checkpoint or make_checkpoint(args.size, Path(name) / args.size)
        workload = Workload.make(Path(name), checkpoint, args.images)
        model = load_model(checkpoint)
        options = EngineOptions(device="cpu", num_slots=args.num_slots, prefill_images=args.prefill_images)
        ours = RecapFast(workload, options, decode_threads=decode_threads)
        peers = [Transformers(workload, model, batch, decode_threads) for batch in args.batch]
        found = {}
        title = f"{checkpoint.name}, {ours.num_prompt_tokens} prompt tokens; {ours.engine.describe()}"
        print(title)
        try:
            for kind in args.lengths:
                found[kind] = compare([ours, *peers], LENGTHS[kind](args.images), args.repeat)
                print(f"\n{found[kind].table(kind)}", flush=True)
        except MismatchError as error:
            print(f"compare_hf: {error}", file=sys.stderr)
            return 1
        finally:
            for contestant in (ours, *peers):
                contestant.close()
    if args.output is not None:
        write_results(args.output, title, found, sys.argv if arguments is None else list(arguments))
    return 0


def write_results(output: Path, title: str, found: dict[str, Comparison], command: Sequence[str]) -> None:
    """Writes what was printed as markdown, and all of it as JSON."""
    content = {**provenance(command), "engine": title, "comparisons": {k: c.as_json() for k, c in found.items()}}
    output.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    machine, versions = content["machine"], content["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}"
    tables = "\n\n".join(comparison.table(kind) for kind, comparison in found.items())
    output.with_suffix(".md").write_text(
        f"# recap-fast beside transformers\n\n- command: `python {' '.join(command)}`\n- machine: {where}\n"
        f"- commit: {content['commit']}\n- versions: {', '.join(f'{k} {v}' for k, v in versions.items())}\n\n"
        f"```\n{title}\n\n{tables}\n```\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
