"""What a model class and an input processor of the PyTorch flow are derived from, and the functions they use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trtllm_fake.llama import Running, forward, load_strictly


class LlamaForCausalLM(torch.nn.Module):
    """The library's Llama: rows of several sequences one after the other, described by `attn_metadata`."""

    def __init__(self, model_config: Any):
        from transformers import LlamaForCausalLM as Reference

        super().__init__()
        self.model_config, self.config = model_config, model_config.pretrained_config
        self._reference = [Reference(self.config).eval()]  # in a list, so that it is no submodule
        self.model, self.lm_head = self._reference[0].model, self._reference[0].lm_head

    def load_weights(
        self,
        weights: Mapping[str, Tensor],
        weight_mapper: Any = None,
        params_map: Mapping[str, str] | None = None,
        allow_partial_loading: bool = False,
    ) -> None:
        """Takes a plain Llama's tensors, all of them."""
        load_strictly(self._reference[0], weights)

    def forward(
        self,
        attn_metadata: Any,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_context_logits: bool = False,
        spec_metadata: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Logits [sequences, V] of each sequence's last row; input_ids [rows] or inputs_embeds [rows, D], not both."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "You cannot specify both input_ids and inputs_embeds at the same time, and must specify either one"
            )
        if kwargs.get("multimodal_params"):
            raise TypeError("multimodal_params is for the multimodal class: take it out before the Llama's forward")
        embeds = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        sequences: list[Running] = attn_metadata._behind.sequences
        rows = embeds.split(attn_metadata.seq_lens.tolist())
        pairs = zip(sequences, rows, strict=True)
        return torch.stack([forward(self._reference[0], sequence, part[None]) for sequence, part in pairs])


class BaseMultimodalInputProcessor(ABC):
    """Of an input processor; it keeps nothing of what it is made with."""

    def __init__(
        self, model_path: str, config: Any, tokenizer: Any, trust_remote_code: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    @property
    @abstractmethod
    def processor(self) -> Any: ...

    @property
    @abstractmethod
    def tokenizer(self) -> Any: ...

    @property
    @abstractmethod
    def config(self) -> Any: ...

    @property
    @abstractmethod
    def dtype(self) -> Any: ...

    @abstractmethod
    def __call__(self, inputs: Any, sampling_params: Any) -> Any: ...

    def attach_multimodal_embeddings(self, inputs: Any, multimodal_embedding: Any, sampling_params: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} takes no embeddings")


def fuse_input_embeds(
    embedding_layer: torch.nn.Embedding,
    input_ids: Tensor,
    mm_embeds: Sequence[Tensor],
    mm_token_ids: Tensor | None = None,
    text_token_indices: Tensor | None = None,
    mm_token_indices: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """(ids, None) where there are no embeddings, else (None, rows [n, D]): embeddings at ids outside the vocabulary."""
    if not mm_embeds:
        return input_ids, None
    given = torch.cat(list(mm_embeds), dim=0)
    is_image = input_ids >= embedding_layer.num_embeddings
    if mm_token_ids is not None:
        is_image = torch.isin(input_ids, mm_token_ids)
    text = torch.where(~is_image)[0] if text_token_indices is None else text_token_indices
    image = torch.where(is_image)[0] if mm_token_indices is None else mm_token_indices
    if len(image) != len(given):
        raise ValueError(
            f"Multimodal token count mismatch: found {len(image)} image tokens in input_ids but received {len(given)} "
            "image embeddings."
        )
    words = embedding_layer(input_ids[text])
    rows = torch.empty(len(input_ids), words.shape[-1], dtype=words.dtype)
    rows[text], rows[image] = words, given.to(words)
    return None, rows


def get_multimodal_embeddings(
    encoder_forward_fn: Callable[..., Tensor],
    multimodal_params: Sequence[Any],
    encoder_kwargs: Mapping[str, Any] | None = None,
) -> list[Tensor]:
    """One tensor of all embeddings; the encoder runs for those that have none."""
    if not multimodal_params:
        return []
    wanting = [p for p in multimodal_params if p.multimodal_data.get("multimodal_embedding") is None]
    if wanting:
        made = encoder_forward_fn(wanting, **(encoder_kwargs or {}))
        for params, embedding in zip(wanting, made, strict=True):
            params.multimodal_data["multimodal_embedding"] = embedding
    return [torch.cat([p.multimodal_data["multimodal_embedding"] for p in multimodal_params], dim=0)]


def find_input_mm_embeds(mm_embeds: Sequence[Tensor], multimodal_params: Sequence[Any]) -> list[Tensor]:
    """All of them: slices are for reuse and for chunks, which the fake has none of."""
    if any(p.multimodal_runtime is not None for p in multimodal_params):
        raise NotImplementedError("the fake has no multimodal_runtime")
    return list(mm_embeds)
