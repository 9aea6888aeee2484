"""The texts that FP8 is calibrated with: whole conversations as the model will see them, without the image.

ModelOpt runs them through the language model and takes the largest activations as the ends of the FP8 range. Captions
come from the user: a file of texts, or the output of `recap-fast run` with the same checkpoint on the torch backend,
which is made from the user's own images and prompt.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from recap_fast.errors import ConfigError
from recap_fast.generate.prompt import parse_question
from recap_fast.generate.spec import PromptSpec
from recap_fast.generate.templates import QUESTION, find_template
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.text import counted
from recap_fast.write.output_folder import OutputFolder

MAX_TEXTS = 512
MIN_TEXTS = 32
CAPTION_COLUMN = "re_caption"
FORMS = (
    "a .txt with a caption on each line, a .jsonl with the key 'text', a .parquet with the column "
    f"'{CAPTION_COLUMN}', or the output folder of `recap-fast run`"
)


def read_captions(path: Path) -> list[str]:
    """The first `MAX_TEXTS` captions. Raises ConfigError where there are fewer than `MIN_TEXTS`."""
    stripped = (caption.strip() for caption in _captions(path) if caption)
    captions = list(islice(filter(None, stripped), MAX_TEXTS))
    if len(captions) < MIN_TEXTS:
        raise ConfigError(
            f"--calibration {path} has {counted(len(captions), 'caption')}, FP8 needs {MIN_TEXTS} to {MAX_TEXTS}: "
            f"give {FORMS}."
        )
    return captions


def make_texts(captions: Sequence[str], prompt: PromptSpec, tokenizer: Tokenizer) -> list[str]:
    """Conversations that end in these captions, special tokens spelled out; fields of the question are empty."""
    _, template = find_template(prompt.template, tokenizer)
    question = "".join(text for text, _ in parse_question(prompt.text))
    bos, _ = find_ends(prompt, tokenizer)
    start = "".join((bos or "", *template.before, *template.after)).replace(QUESTION, question)
    return [start + caption for caption in captions]


def find_ends(prompt: PromptSpec, tokenizer: Tokenizer) -> tuple[str | None, str]:
    """The token that begins a conversation, None where the template has none, and the one that ends an answer.

    Raises ConfigError where the tokenizer has none of those that the template knows.
    """
    _, template = find_template(prompt.template, tokenizer)
    bos = _first_special(tokenizer, template.bos) if template.bos else None
    return bos, _first_special(tokenizer, template.stop_tokens)


def _first_special(tokenizer: Tokenizer, tokens: Sequence[str]) -> str:
    """The first of these special tokens that the tokenizer has. Raises ConfigError where it has none."""
    for token in tokens:
        if token in tokenizer.special:
            return token
    raise ConfigError(f"The tokenizer has none of {', '.join(tokens)}.")


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def write_texts(folder: Path, texts: Sequence[str]) -> None:
    """A folder as TensorRT-LLM's `calib_dataset` takes it: `datasets.load_dataset(folder, split="train")["text"]`."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")


def _captions(path: Path) -> Iterator[str | None]:
    if not path.exists():
        raise ConfigError(f"--calibration {path} does not exist: give {FORMS}.")
    if path.is_dir():
        for file in OutputFolder.at(path).data_files():
            yield from _parquet(path / file.name)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix in (".txt", ".jsonl"):
        yield from _lines(path)
    else:
        raise ConfigError(f"--calibration {path}: give {FORMS}.")


def _lines(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--calibration {path} is not UTF-8 ({error.reason} at byte {error.start}).") from error
    for number, line in enumerate(lines, 1):
        if path.suffix == ".txt" or not line.strip():
            yield line
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--calibration {path}, line {number}: expected {{'text': '...'}}.") from error


def _parquet(path: Path) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[CAPTION_COLUMN]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, IndexError) as error:
        raise ConfigError(f"--calibration {path} cannot be read as captions ({error}): give {FORMS}.") from error
