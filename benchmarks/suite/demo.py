"""The trained demo engine, in any precision: its captions are known, so that a wrong scale or pixel shows at once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scenes
from numpy.typing import NDArray

from inputs.oracle import with_texts
from recap_fast.build.engine_directory import build_engine
from recap_fast.decode.decoder import make_decoder
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.generate.spec import KVPrecision
from recap_fast.records import Request
from suite.setting import ROOT, Setting

CHECKPOINT = ROOT / "demo/recap-tiny"
SEED = 10**6
"""Of scenes that it was not trained on."""


def build(setting: Setting, precision: str, kv_precision: KVPrecision = "auto") -> Path:
    """The engine's directory, made if it is not there yet."""
    folder = setting.work / f"demo-{precision}-{kv_precision}"
    if not folder.is_dir():
        spec = build_engine("recap_tiny", CHECKPOINT, folder, precision=precision)
        dataclasses.replace(spec, kv_precision=kv_precision).save(folder)
    return folder


def draw(count: int) -> list[bytes]:
    """Scenes as JPEGs, always the same."""
    rng = np.random.default_rng(SEED)
    return [scenes.jpeg(scenes.random_scene(rng)) for _ in range(count)]


class DemoEngine:
    """The demo engine in one precision; it is opened for each question."""

    def __init__(self, setting: Setting, precision: str):
        self._prepared, self._device = PreparedEngine.read(build(setting, precision)), setting.device

    def decode(self, images: Sequence[bytes]) -> NDArray[np.uint8]:
        """Pixels, by Pillow."""
        return make_decoder("pillow", self._prepared.spec.preprocess).decode(images).pixels

    def caption(self, pictures: NDArray[np.uint8]) -> list[list[int]]:
        """Captions up to their stop token."""
        text, longest = self._text_ids(), self._prepared.spec.limits.max_new_tokens
        return self._run(self._prepared, [Request(i, pixels, text, longest) for i, pixels in enumerate(pictures)])

    def next_tokens(self, pictures: NDArray[np.uint8], captions: Sequence[Sequence[int]]) -> list[int]:
        """After every beginning of each caption, the token that comes."""
        requests: list[Request] = []
        for pixels, ids in zip(pictures, captions, strict=True):
            for end in range(len(ids)):
                begun = np.concatenate([self._text_ids(), np.array(ids[:end], np.int32)])
                requests.append(Request(len(requests), pixels, begun, 1))
        longest = max(len(request.text_ids) for request in requests)
        endless = with_texts(self._prepared.with_spec(stop_ids=()), longest)
        return [ids[0] for ids in self._run(endless, requests)]

    def _text_ids(self) -> NDArray[np.int32]:
        return self._prepared.prompts.text_ids({})[0]

    def _run(self, prepared: PreparedEngine, requests: list[Request]) -> list[list[int]]:
        engine = prepared.open(EngineOptions(device=self._device, loop_stop=False))
        done = sorted(generate_all(engine, requests), key=lambda completion: completion.id)
        engine.close()
        return [completion.token_ids.tolist() for completion in done]
