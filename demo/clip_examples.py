"""What recap-tiny-clip learns from: drawn pictures beside right and wrong captions, made by processes as it goes."""

import io
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import changes
import numpy as np
import scenes
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, CLIPTokenizer

IMAGE_SIZE = 96
MAX_TOKENS = 128  # the longest caption has 118
NUM_WRONG = 6  # wrong texts that are made for a picture; a step takes some of them
WRONG = {
    "color": 0.2,
    "count": 0.2,
    "place": 0.2,
    "shape": 0.1,
    "size": 0.08,
    "background": 0.05,
    "word": 0.12,
    "less": 0.05,
}
"""What is wrong with them, and how often."""


def train_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with word ends in small, learnt from our captions; it can spell any other text."""
    rng = np.random.default_rng(0)
    drawn = [scenes.random_scene(rng) for _ in range(4000)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([scenes.caption(s) for s in drawn], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)])
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def preprocess(data: bytes) -> np.ndarray:
    """Stretched to a square as CLIPImageProcessor does with a size of height and width, uint8 [3, 96, 96]."""
    square = Image.open(io.BytesIO(data)).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(square).transpose(2, 0, 1)


def cell_labels(scene: scenes.Scene) -> np.ndarray:
    """uint8 [9, 3]: shape, color and size of the object in each cell, 0 where there is none."""
    labels = np.zeros((len(scenes.PLACES), 3), np.uint8)
    for t in scene.things:
        names = zip((t.shape, t.color, t.size), (scenes.SHAPES, scenes.COLORS, scenes.SIZES), strict=True)
        labels[t.place] = [tuple(values).index(name) + 1 for name, values in names]
    return labels


def wrong_text(scene: scenes.Scene, rng: np.random.Generator) -> str:
    """A caption of a scene that differs in one thing; sometimes a contradictory or an incomplete one."""
    kind = rng.choice(tuple(WRONG), p=tuple(WRONG.values()))
    if kind == "word":
        return changes.misword(scenes.caption(scene), rng)
    if kind == "less":
        return changes.shorten(scene, rng)
    return scenes.caption(changes.change(scene, kind, rng))


def draw_examples(seed: int, count: int, folder: Path) -> dict[str, np.ndarray]:
    """Pictures after a trip through JPEG, cells, and token ids [count, 1 + NUM_WRONG, 128]: captions, wrong texts."""
    rng, tokenizer = np.random.default_rng(seed), AutoTokenizer.from_pretrained(folder)
    drawn = [scenes.random_scene(rng) for _ in range(count)]
    texts = [t for s in drawn for t in (scenes.caption(s), *(wrong_text(s, rng) for _ in range(NUM_WRONG)))]
    return {
        "pixels": np.stack([preprocess(scenes.jpeg(s, int(rng.integers(75, 96)))) for s in drawn]),
        "cells": np.stack([cell_labels(s) for s in drawn]),
        "ids": token_ids(tokenizer, texts).reshape(count, 1 + NUM_WRONG, MAX_TOKENS),
    }


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """int16 [n, 128], padded with the end token: the first one is where CLIP reads its embedding."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return np.array(encoded["input_ids"], np.int16)


class Examples:
    """The newest `capacity` examples, on the device, replaced by fresh ones while the training runs."""

    def __init__(self, capacity: int, folder: Path, processes: int, device: torch.device):
        self.capacity, self.drawn, self.device = capacity, 0, device
        self._stored: dict[str, torch.Tensor] = {}
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are processes enough
        self._pool = multiprocessing.get_context("spawn").Pool(processes)
        self._jobs = threading.Semaphore(2 * processes)  # results that wait must not fill the memory
        self._draw = lambda seed: self._pool.apply_async(
            draw_examples, (seed, 256, folder), callback=self._put, error_callback=self._fail
        )
        self._error: BaseException | None = None
        threading.Thread(target=self._feed, daemon=True).start()

    def _feed(self) -> None:
        for seed in range(1, 10**6):  # the pictures of the check have seed 10**6
            self._jobs.acquire()
            try:
                self._draw(seed)
            except ValueError:  # the pool is closed
                return

    def _fail(self, error: BaseException) -> None:
        self._error = error

    def _put(self, batch: dict[str, np.ndarray]) -> None:
        places = torch.arange(self.drawn, self.drawn + len(batch["ids"]), device=self.device) % self.capacity
        for name, values in ((name, torch.from_numpy(v).to(self.device)) for name, v in batch.items()):
            if name not in self._stored:
                self._stored[name] = values.new_empty((self.capacity, *values.shape[1:]))
            self._stored[name][places] = values
        self.drawn += len(places)
        self._jobs.release()

    def take(self, count: int) -> dict[str, torch.Tensor]:
        """`count` examples by chance; waits at the start until there are twice as many."""
        while self.drawn < 2 * count:
            if self._error:
                raise self._error
            time.sleep(0.1)
        chosen = torch.randint(min(self.drawn, self.capacity), (count,)).to(self.device)
        return {name: values[chosen] for name, values in self._stored.items()}

    def close(self) -> None:
        self._pool.terminate()
