"""An engine directory read and its prompt encoded: all that is known of an engine before its weights are loaded."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, get_args

from recap_fast.atomic import sha256_of
from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import Engine, EngineOptions, next_requests
from recap_fast.generate.json_file import check_readable
from recap_fast.generate.prompts import Prompts, check_prompts, choose
from recap_fast.generate.spec import WEIGHTS_FILE, Backend, EngineSpec
from recap_fast.generate.tokenizer import TOKENIZER_FILES, Tokenizer, find_tokenizer, load_tokenizer
from recap_fast.records import Completion, Request


@dataclass(frozen=True, slots=True)
class PreparedEngine:
    """Opens engines, as often as wanted."""

    folder: Path
    spec: EngineSpec
    """As engine.json has it."""
    tokenizer: Tokenizer
    prompts: Prompts
    """Those that are asked."""

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        prompts: Sequence[str] = (),
        num_captions: int = 1,
        max_field_tokens: int = MAX_FIELD_TOKENS,
        verify: bool = True,
    ) -> Self:
        """Reads an engine directory. `prompts` are asked instead of the engine's default, see `prompts.choose`, and
        `num_captions` are made of each.

        With `verify` the tokenizer's file is compared with its SHA-256 in engine.json; the weights have checksums of
        their own. Raises ConfigError where the directory or the prompt cannot be used.
        """
        spec = EngineSpec.load(folder)
        if verify:
            _verify_tokenizer(folder, spec)
        tokenizer = load_tokenizer(folder)
        if tokenizer.vocab_size > spec.text.vocab_size:
            raise ConfigError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the model's embedding "
                f"{spec.text.vocab_size} rows: it belongs to another model. Build the engine again."
            )
        check_prompts(spec.prompt)
        asked = Prompts(
            tokenizer,
            spec.prompt,
            choose(spec.prompt, prompts),
            num_captions=num_captions,
            max_field_tokens=max_field_tokens,
            max_text_tokens=spec.limits.max_text_tokens,
        )
        return cls(folder, spec, tokenizer, asked)

    def with_spec(self, **changed: Any) -> Self:
        """The same with other values in its spec, such as `stop_ids=()`."""
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, **changed))

    def max_new_tokens(self, options: EngineOptions) -> int:
        """The longest caption, in tokens."""
        return options.max_new_tokens or self.spec.limits.max_new_tokens

    def check(self, options: EngineOptions) -> str:
        """The device, such as 'cuda:0'; loads nothing. Raises ConfigError where it or the weights are not there."""
        from recap_fast.generate.device import resolve_device  # torch: not for an engine that is only looked at

        device = resolve_device(options.device)
        weights = self.folder / WEIGHTS_FILE
        check_readable(weights)
        if not weights.is_file():
            raise ConfigError(f"{weights} is not there: copy the engine directory whole, or build it again.")
        return str(device)

    def open(self, options: EngineOptions | None = None) -> Engine:
        """Loads the weights, with the backend that the engine was built for: each is imported here, when it is needed.

        Raises ConfigError where the backend, the device or the weights cannot be had.
        """
        options = options or EngineOptions()
        captions_per_image = max(options.captions_per_image, self.prompts.captions_per_image)
        options = dataclasses.replace(options, captions_per_image=captions_per_image)
        given = self.folder, self.spec, options, self.prompts.longest
        if self.spec.backend == "torch":
            from recap_fast.generate.torch_backend.engine import TorchEngine

            return TorchEngine(*given)
        if self.spec.backend == "tensorrt-llm":
            from recap_fast.generate.tensorrt_backend.engine import TensorRTEngine

            return TensorRTEngine(*given)
        raise ConfigError(
            f"{self.folder}: backend {self.spec.backend!r} is not known to this version, which has: "
            f"{', '.join(get_args(Backend))}."
        )


def _verify_tokenizer(folder: Path, spec: EngineSpec) -> None:
    file = find_tokenizer(folder)
    known = {name: spec.files[name] for name in TOKENIZER_FILES if name in spec.files}
    if file is not None:
        check_readable(file)
    if file is not None and known and sha256_of(file) != known.get(file.name):
        raise ConfigError(
            f"{file} is not the tokenizer that the engine was built with, by its SHA-256 in engine.json: copy the "
            "engine directory again, or build it again."
        )


def generate_all(engine: Engine, requests: Iterable[Request]) -> Iterator[Completion]:
    """Runs requests through an idle engine and keeps it full; completions in the order in which they end."""
    source, num_slots, in_flight = iter(requests), engine.free_slots, 0
    waiting: list[Request] = []
    while True:
        room = engine.free_slots
        waiting += islice(source, max(0, room + 1 - len(waiting)))  # one more: it shows where an image's requests end
        if joining := next_requests(waiting, room, num_slots):
            del waiting[: len(joining)]
            engine.submit(joining)
            in_flight += len(joining)
        if not in_flight:
            return
        for completion in engine.step():
            in_flight -= 1
            yield completion
