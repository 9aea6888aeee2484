"""Random weights: the one rule by which all models of benchmarks and tests are filled.

transformers' own initial weights give all images nearly the same caption. With these every image gets one of its own,
so that a mix-up of two images shows: matrices keep the variance of what passes through them, and the head's are larger,
so that the likeliest token leads.
"""

import torch
from torch import Tensor


def random_weight(name: str, shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A tensor by its name, transformers' or an engine's: float32 [*shape] on the generator's device."""
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * noise
    if noise.ndim == 1 or "position" in name:
        return 0.1 * noise
    if "embed_tokens" in name or name == "text.embed.weight":
        return noise
    return noise * (3.0 if "head" in name else 1.0) / noise[0].numel() ** 0.5


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Fills a model of transformers in place; the same numbers for the same seed and device."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        weight.copy_(random_weight(name, weight.shape, generator))
