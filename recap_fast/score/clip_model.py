"""A CLIP on a device: uint8 pixels and token ids in, features out, as transformers' model computes them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.errors import ConfigError, EngineError
from recap_fast.records import Pixels
from recap_fast.score.clip_folder import ARCHITECTURES, ClipFolder
from recap_fast.score.clip_tower import Tower

Precision = Literal["float32", "bfloat16", "float16"]
MAX_CHARACTERS = 1 << 16
"""Characters of a caption that are read: no text tower takes as many tokens."""


class ClipModel:
    """The two towers with their tokenizer. Not for several threads at once, but for `tokenize`."""

    def __init__(self, folder: ClipFolder, device: torch.device, precision: Precision):
        """Loads it. Raises ConfigError for files that do not hold such a model, and where transformers is missing."""
        transformers = _import_transformers()
        self.device = device
        self._dtype = getattr(torch, precision)
        self._num_tokens = folder.num_tokens
        self._pads_to_end = folder.model_type == "siglip"
        with _refusing(folder):
            self._model = _load(getattr(transformers, ARCHITECTURES[folder.model_type]), folder, self._dtype)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
            self._check_tokenizer(folder)
        self._model.to(device).eval()
        self._towers = None if self._pads_to_end else _Towers(self._model)
        pad = self._tokenizer.pad_token_id
        self._pad = 0 if pad is None else int(pad)
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (folder.preprocess.mean, folder.preprocess.std))
        self._scale, self._shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def tokenize(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """The ids of each text with the marks of begin and end, and whether it was cut to what the tower takes."""
        short = [text[:MAX_CHARACTERS] for text in texts]
        found = self._tokenizer(short, truncation=False, verbose=False)["input_ids"] if short else []
        long = [i for i, ids in enumerate(found) if len(ids) > self._num_tokens]
        whole = [(ids, len(text) > MAX_CHARACTERS) for ids, text in zip(found, texts, strict=True)]
        if long:
            again = [short[i] for i in long]
            cut = self._tokenizer(again, truncation=True, max_length=self._num_tokens, verbose=False)["input_ids"]
            for i, ids in zip(long, cut, strict=True):
                whole[i] = ids, True
        return whole

    def _check_tokenizer(self, folder: ClipFolder) -> None:
        """Raises ConfigError for the tokenizer of another model: every text would get features without a meaning."""
        ((ids, _),) = self.tokenize(["a"])
        text = self._model.config.text_config
        is_known = max(ids, default=0) < text.vocab_size
        if not is_known or (not self._pads_to_end and text.eos_token_id not in (2, *ids)):
            raise ConfigError(
                f"{folder.path}: its tokenizer is not the one of this model: 'a' becomes {ids}, while config.json has "
                f"{text.vocab_size:,} tokens with the end mark {text.eos_token_id}. Download its files again."
            )

    def image_features(self, pixels: Pixels) -> Tensor:
        """The features of uint8 images [n, 3, size, size]: float32 [n, width], not normalized, on the device."""
        images = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
        normal = images.to(self.device, non_blocking=True).to(torch.float32).mul_(self._scale).add_(self._shift)
        with torch.inference_mode(), _naming_memory():
            if self._towers is not None:
                return self._towers.image_features(normal.to(self._dtype)).to(torch.float32)
            return _features(self._model.get_image_features(pixel_values=normal.to(self._dtype)))

    def text_features(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The features of ids from `tokenize`: float32 [n, width], not normalized, on the device.

        Texts of similar lengths are fastest.

        CLIP's text tower is causal and reads the first end mark alone, so what pads its texts cannot matter, however
        long it is. SigLIP's sees the padding: every text has the length that it was trained with.
        """
        length = self._num_tokens if self._pads_to_end else max(map(len, texts))
        ids = torch.tensor([[*text, *[self._pad] * (length - len(text))] for text in texts], device=self.device)
        with torch.inference_mode(), _naming_memory():
            if self._towers is not None:
                return self._towers.text_features(ids).to(torch.float32)
            return _features(self._model.get_text_features(input_ids=ids))


class _Towers:
    """CLIP's two towers, as `CLIPModel` has them around their layers."""

    def __init__(self, model: Any):
        self._model = model
        self._vision, self._text = (
            Tower(tower.encoder.layers, tower.config.num_attention_heads)
            for tower in (model.vision_model, model.text_model)
        )

    def image_features(self, pixels: Tensor) -> Tensor:
        """The features of normalized pixels: [n, width]."""
        vision = self._model.vision_model
        rows = vision.pre_layrnorm(vision.embeddings(pixels))
        place = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        row = vision.post_layernorm(self._vision.read(rows, place, is_causal=False))
        return F.linear(row, self._model.visual_projection.weight)

    def text_features(self, ids: Tensor) -> Tensor:
        """The features of token ids [n, length], read at the first end mark: [n, width]."""
        text = self._model.text_model
        end = text.config.eos_token_id
        # Configurations from before transformers 4.31 name a wrong one, 2: there the end mark has the highest id.
        place = (ids if end == 2 else (ids == end).to(torch.int)).argmax(1)
        row = text.final_layer_norm(self._text.read(text.embeddings(input_ids=ids), place, is_causal=True))
        return F.linear(row, self._model.text_projection.weight)


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("score needs the package transformers: pip install 'recap-fast[score]'.") from error
    return transformers


@contextlib.contextmanager
def _refusing(folder: ClipFolder) -> Iterator[None]:
    """Makes one sentence of whatever transformers says of files, and nothing of its own messages meanwhile."""
    from transformers.utils.logging import disable_progress_bar

    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    disable_progress_bar()
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"transformers cannot load {folder.path} ({reason}): download its files again.") from error
    finally:
        logger.setLevel(before)


def _load(architecture: Any, folder: ClipFolder, dtype: torch.dtype) -> Any:
    """The model; transformers would fill in random numbers for weights that are not there."""
    model, loading = architecture.from_pretrained(
        folder.path, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
    )
    lost = sorted([*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])])
    if lost:
        raise ConfigError(
            f"{folder.path}: {len(lost):,} weights are missing or of another shape, such as {lost[0]}: "
            "download the files of the whole model again."
        )
    return model


def _features(found: Any) -> Tensor:
    """The projected features: transformers 5 returns them in an object, 4 as they are."""
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features.to(torch.float32)


@contextlib.contextmanager
def _naming_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError("The GPU's memory is too small for a batch: give a smaller --batch-size.") from error
