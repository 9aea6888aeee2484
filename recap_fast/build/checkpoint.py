"""Reads the tensors of a LLaVA checkpoint in pieces, under one set of names whatever program wrote it.

In goes a folder of safetensors, one file or several, with names of the original LLaVA or of any version of
transformers; out come tensors by a name of ours (`text.`, `head.`, `projector.`, `vision.`). Pickles are refused.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from recap_fast.build.checkpoint_folder import check_folder
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_value
from recap_fast.generate.json_file import check_readable, read_json

if TYPE_CHECKING:
    import torch

INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
"""What is read of a checkpoint besides its weights and its tokenizer, as far as it is there."""
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# The first prefix that fits names a tensor: as the original LLaVA has it, and transformers from version 4 on.
PREFIXES = (
    ("language_model.model.", "text."),
    ("language_model.lm_head.", "head."),
    ("model.language_model.", "text."),
    ("lm_head.", "head."),
    ("model.multi_modal_projector.linear_1.", "projector.0."),
    ("model.multi_modal_projector.linear_2.", "projector.1."),
    ("multi_modal_projector.linear_1.", "projector.0."),
    ("multi_modal_projector.linear_2.", "projector.1."),
    ("model.mm_projector.0.", "projector.0."),
    ("model.mm_projector.2.", "projector.1."),
    ("model.vision_tower.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.vision_tower.", "clip."),
    ("model.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.", "vision."),
    ("vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("model.", "text."),
)
# What LLaVA does not read: the norm after the tower, SigLIP's pooling head, buffers of old versions, and the rest of a
# whole CLIP or SigLIP.
UNUSED = re.compile(
    r"vision\.post_layernorm\.(weight|bias)|vision\.head\..*|vision\.embeddings\.position_ids"
    r"|text\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    r"|(clip|vision)\.(text_model\..*|visual_projection\.weight|text_projection\.weight|logit_scale|logit_bias)"
)


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Where a tensor is stored."""

    file: Path
    name: str
    """Its name in the file."""
    shape: tuple[int, ...]
    dtype: str
    """The name in torch, such as 'bfloat16'."""
    offset: int
    """Position of its first byte in the file."""

    def __str__(self) -> str:
        return f"tensor {self.name} in {self.file}"

    def read(self, chunk_bytes: int) -> Iterator["torch.Tensor"]:
        """The tensor in pieces of whole rows, of `chunk_bytes` at most or one row.

        Reads rather than maps: pages of a mapped file count as this process's memory for as long as it is mapped.
        """
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        row_bytes = dtype.itemsize * math.prod(self.shape[1:])
        rows = max(1, chunk_bytes // row_bytes)
        with self.file.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = bytearray(count * row_bytes)
                file.readinto(data)
                yield torch.frombuffer(data, dtype=dtype).view(count, *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a checkpoint by our names, without those that LLaVA never reads."""

    folder: Path
    name: str
    """What the model is called: by its folder, or on the Hub."""
    tensors: Mapping[str, TensorSource]
    files: tuple[Path, ...]

    def check(self, expected: Mapping[str, tuple[int, ...]], unused: Iterable[str] = ()) -> None:
        """Compares with the shapes of an architecture.

        `unused` are beginnings of names that may be there. Raises ConfigError naming each tensor (five at most) that is
        missing, unexpected or misshapen.
        """
        missing = [name for name in expected if name not in self.tensors]
        if missing and not any(name.startswith("vision.") for name in self.tensors):
            raise ConfigError(
                f"{self.folder} has no weights of the vision tower: its maker expects them to be downloaded apart. "
                "Give a checkpoint that holds them, such as a llava-hf conversion of the same model."
            )
        known = {name: source for name, source in self.tensors.items() if name in expected}
        extra = [t.name for n, t in self.tensors.items() if n not in known and not n.startswith(tuple(unused))]
        wrong = [
            f"{t.name} of shape {list(t.shape)} where config.json says {list(expected[n])}"
            for n, t in known.items()
            if t.shape != expected[n]
        ]
        self._refuse("misshapen", wrong)
        self._refuse("missing", [self._name_here(name) for name in missing])
        self._refuse("unexpected", extra)

    def _refuse(self, what: str, found: list[str]) -> None:
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ConfigError(
                f"{self.folder}: {len(found)} {what} tensor{'s' * (len(found) > 1)}: {', '.join(found[:5])}{more}. "
                "The weights and config.json do not belong together, or the model is not LLaVA-1.5."
            )

    def _name_here(self, ours: str) -> str:
        """What a tensor that is missing would be called, going by the names of those that are there."""
        prefixes = [(theirs, prefix) for theirs, prefix in PREFIXES if ours.startswith(prefix)]
        used = [p for p in prefixes if any(t.name.startswith(p[0]) for t in self.tensors.values())]
        theirs, prefix = (used or prefixes)[0]
        return theirs + ours.removeprefix(prefix)


def open_checkpoint(folder: Path, title: str | None = None) -> Checkpoint:
    """Finds the tensors of a checkpoint; reads headers only. `title` is what the model is called, if not as its folder.

    Raises ConfigError where there are no safetensors, or they are damaged, incomplete or of integers, and for what is
    no model's folder, with what to do.
    """
    try:
        check_folder(folder)
        files = _weight_files(folder)
    except PermissionError as error:
        raise ConfigError(f"{folder} cannot be read: permission denied. Change its mode or its owner.") from error
    tensors: dict[str, TensorSource] = {}
    for file in files:
        for source in _read_header(file):
            name = canonical_name(source.name)
            if UNUSED.fullmatch(name):
                continue
            if name in tensors:
                raise ConfigError(
                    f"{source} is in the checkpoint twice: also as {tensors[name].name} in {tensors[name].file}."
                )
            if source.dtype not in DTYPES.values():
                raise ConfigError(
                    f"{source} is {source.dtype}, which is quantized. Give the checkpoint that it was made from."
                )
            tensors[name] = source
    return Checkpoint(folder, title or folder.resolve().name, tensors, files)


def canonical_name(name: str) -> str:
    """Our name of a checkpoint's tensor; its own where it fits no layout."""
    for prefix, ours in PREFIXES:
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def indexed_files(folder: Path) -> tuple[str, ...]:
    """The names of the weight files in the index; none where there is no index. Raises ConfigError for a wrong one."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return ()
    weight_map = read_value(Source(index), dict[str, str], "weight_map", read_json(index).get("weight_map"))
    if not weight_map:
        raise ConfigError(f"{index} has no weight_map.")
    return tuple(sorted(set(weight_map.values())))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    names = indexed_files(folder)
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise ConfigError(f"{folder} lacks {', '.join(absent)}, which {INDEX_FILE} lists: is the download complete?")
    files = tuple(folder / name for name in names) or tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise ConfigError(f"{folder} has no *.safetensors: is it the folder of a model, and is the download complete?")
    return files


def _read_header(file: Path) -> Iterator[TensorSource]:
    """Format: 8 bytes with the header's length, the header in json, the data (github.com/huggingface/safetensors)."""
    try:
        with safe_open(file, framework="numpy"):
            pass  # the library checks the header against the file's size
    except (SafetensorError, OSError) as error:
        check_readable(file)
        raise ConfigError(f"{file} is damaged ({error}): is the download complete?") from error
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    for name, entry in header.items():
        if name != "__metadata__":
            dtype = DTYPES.get(entry["dtype"], entry["dtype"])
            offset = 8 + header_bytes + entry["data_offsets"][0]
            yield TensorSource(file, name, tuple(entry["shape"]), dtype, offset)
