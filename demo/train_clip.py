"""Trains recap-tiny-clip, the demo's judge: a CLIP of four million parameters, on scenes drawn as it goes.

    python demo/train_clip.py --output demo/recap-tiny-clip            # five minutes on an H200 with 16 CPU cores
    python demo/train_clip.py --check demo/recap-tiny-clip             # how often the right caption beats a wrong one

The model is transformers' own CLIPModel, saved as any CLIP is, so that it goes through the same `recap-fast score` as
ViT-L/14. Contrast with the captions of other pictures alone teaches a bag of words; so every picture is also held
against captions of scenes that differ from its own in one thing (changes.py). Beside that loss, small heads (thrown
away afterwards) ask both towers what is in each cell of the grid: told directly what to see and to read, they learn
in minutes what contrast alone teaches in hours. Pictures are stretched to a square, so that none loses its corners.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import changes
import numpy as np
import scenes
import torch
from clip_examples import IMAGE_SIZE, MAX_TOKENS, NUM_WRONG, Examples, preprocess, token_ids, train_tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

PATCH = 16
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of red, green and blue
STD = (0.26862954, 0.26130258, 0.27577711)
CLASSES = (len(scenes.SHAPES) + 1, len(scenes.COLORS) + 1, len(scenes.SIZES) + 1)  # of a cell; 0 is none
TOLD = ("color", "count", "place")  # what the accuracy that we promise is about


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of the usual parts: ViT with a class token, causal text transformer read at its end token."""
    size = {"hidden_size": 192, "intermediate_size": 576, "num_attention_heads": 6, "projection_dim": 256}
    size["hidden_act"] = "gelu"
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "num_hidden_layers": 4,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": IMAGE_SIZE, "patch_size": PATCH, "num_hidden_layers": 5}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=size | text, vision_config=size | vision, projection_dim=256))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = grid_waves(IMAGE_SIZE // PATCH, 192)
    return model


def grid_waves(grid: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column, [grid * grid, width]: neighbors start out alike."""
    rates = torch.pi * torch.arange(1, width // 4 + 1) / (width // 4)
    waves = torch.cat([f(torch.arange(grid)[:, None] * rates) for f in (torch.sin, torch.cos)], 1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    return 0.5 * torch.cat([rows, columns], -1).flatten(0, 1)


class SceneReader(nn.Module):
    """The training aid: what is in each cell, from a patch of it and from the embedding of a picture or a caption."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.of_patch = nn.Linear(config.vision_config.hidden_size, sum(CLASSES))
        self.of_embedding = nn.Linear(config.projection_dim, 9 * sum(CLASSES))

    def patch_loss(self, patches: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """`patches` [n, 36, D] in rows of six; `cells` int64 [n, 9, 3]: shape, color and size (0 is none)."""
        rows = torch.arange(IMAGE_SIZE // PATCH, device=cells.device) // 2
        return self._loss(self.of_patch(patches), cells[:, (rows[:, None] * 3 + rows).flatten()])

    def loss(self, embeddings: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """`embeddings` [n, 256] before they are normalized, and `cells` as above."""
        return self._loss(self.of_embedding(embeddings).unflatten(-1, (9, -1)), cells)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = zip(logits.float().flatten(0, 1).split(CLASSES, dim=-1), labels.flatten(0, 1).unbind(-1), strict=True)
        return sum(F.cross_entropy(part, label) for part, label in parts)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """float32 [n, 3, H, W] as CLIP takes it, of uint8 pixels."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def contrast(images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss where picture i also has wrong texts of its own: `images` [n, D], `texts` [n, 1 + k, D].

    A picture is held against every text of the batch, a caption against every picture. The same text elsewhere in the
    batch (`ids` [n, 1 + k, 128]) is no wrong one, so it is left out.
    """
    n, per = texts.shape[:2]
    key = (ids.long() * torch.arange(1, ids.shape[-1] + 1, device=ids.device) ** 7).sum(-1)  # of a text
    right = torch.arange(n, device=ids.device)
    logits = scale * images @ texts.flatten(0, 1).T
    same = key[:, :1] == key.flatten()
    same[right, right * per] = False
    by_image = F.cross_entropy(logits.masked_fill(same, -1e4), right * per)
    by_text = F.cross_entropy(logits[:, ::per].masked_fill(same[:, ::per], -1e4).T, right)
    return by_image + 0.5 * by_text


def losses(model: CLIPModel, reader: SceneReader, batch: dict, num_wrong: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The contrastive loss and the reading loss of a batch, with `num_wrong` of each picture's wrong texts."""
    ids, cells = batch["ids"], batch["cells"].long()
    n = len(ids)
    ids = ids[:, [0, *(1 + torch.randperm(NUM_WRONG)[:num_wrong]).tolist()]]
    ids = ids[..., : int((ids != model.config.text_config.eos_token_id).sum(-1).max()) + 1]
    with torch.autocast(ids.device.type, torch.bfloat16):
        seen = model.vision_model(normalize(batch["pixels"]), output_hidden_states=True)
        images = model.visual_projection(seen.pooler_output)
        texts = model.text_projection(model.text_model(ids.flatten(0, 1).long()).pooler_output).unflatten(0, (n, -1))
        reading = reader.loss(images, cells) + reader.loss(texts[:, 0], cells)
        reading = reading + reader.patch_loss(seen.hidden_states[-2][:, 1:], cells)
    scale = model.logit_scale.exp().clamp(max=100)
    loss = contrast(F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1), ids, scale)
    return loss, reading


def learning_rate(highest: float, step: int, share: float) -> float:
    """Rises for 200 steps, then falls as a cosine; `share` is that of the time, since the time is what is given."""
    return highest * min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def train(args: argparse.Namespace) -> None:
    """Trains for `args.minutes` and writes the checkpoint, with its accuracy, every minute and at the end."""
    device = torch.device(args.device)
    args.output.mkdir(parents=True, exist_ok=True)
    train_tokenizer().save_pretrained(args.output)
    write_preprocessing(args.output)
    model = build_model(AutoTokenizer.from_pretrained(args.output)).to(device)
    reader = SceneReader(model.config).to(device)
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    examples = Examples(args.capacity, args.output, args.processes, device)
    pairs = Pairs.draw(args.output)
    examples.take(args.batch_size)  # the clock starts with the first pictures
    start = reported = time.monotonic()
    step = 0
    while (spent := time.monotonic() - start) < args.minutes * 60:
        share = spent / (args.minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.learning_rate, step, share)
        loss, reading = losses(model, reader, examples.take(args.batch_size), args.num_wrong)
        (loss + args.reading_weight * (1 - share) * reading).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        step += 1
        if step % 20 == 0 and time.monotonic() - reported > args.report_seconds:
            reported = time.monotonic()
            rate = step * args.batch_size / (reported - start)
            print(f"{spent / 60:5.2f} min  step {step:6d}  loss {loss:.4f}  reading {reading:.4f}  {rate:.0f} images/s")
            print(f"           {examples.drawn} drawn  {pairs.accuracy(model)}", flush=True)
            model.save_pretrained(args.output)
    examples.close()
    model.save_pretrained(args.output)
    settings = {"steps": step, "images": step * args.batch_size, "minutes": args.minutes}
    check(args.output, args.device, pairs, settings)


def write_preprocessing(folder: Path) -> None:
    """CLIPImageProcessor's settings; a size of height and width stretches."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": size}
    processor |= {"resample": 3, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


@dataclass(frozen=True)
class Pairs:
    """Unseen scenes with the right caption and that of a scene with one change.

    1,000 pairs have another color, count or place; 1,000 more another shape, size or background.
    """

    kinds: list[str]
    pixels: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def draw(cls, folder: Path, seed: int = 10**6) -> "Pairs":
        """The same pairs every time; `folder` has the tokenizer."""
        rng = np.random.default_rng(seed)
        others = tuple(kind for kind in changes.CHANGES if kind not in TOLD)
        kinds = [group[i % 3] for group in (TOLD, others) for i in range(1000)]
        drawn = [scenes.random_scene(rng) for _ in kinds]
        texts = [scenes.caption(s) for pair in zip(drawn, kinds, strict=True) for s in _with_change(*pair, rng)]
        pixels = torch.from_numpy(np.stack([preprocess(scenes.jpeg(s)) for s in drawn]))
        ids = torch.from_numpy(token_ids(AutoTokenizer.from_pretrained(folder), texts)).long()
        return cls(kinds, pixels, ids.unflatten(0, (len(kinds), 2)))

    @torch.no_grad()
    def accuracy(self, model: CLIPModel) -> dict[str, float | int]:
        """How often the right caption has the higher cosine: a share of the first 1,000 pairs, and by change."""
        right: list[bool] = []
        for pixels, ids in zip(self.pixels.split(100), self.ids.split(100), strict=True):
            out = model(pixel_values=normalize(pixels.to(model.device)), input_ids=ids.flatten(0, 1).to(model.device))
            cosines = torch.einsum("nd,nkd->nk", out.image_embeds, out.text_embeds.unflatten(0, (-1, 2)))
            right += (cosines[:, 0] > cosines[:, 1]).tolist()
        of_kind = {k: [r for r, kind in zip(right, self.kinds, strict=True) if kind == k] for k in changes.CHANGES}
        shares = {kind: round(sum(r) / len(r), 4) for kind, r in of_kind.items()}
        return {"accuracy": sum(right[:1000]) / 1000, "pairs": 1000, **shares}


def _with_change(scene: scenes.Scene, kind: str, rng: np.random.Generator) -> tuple[scenes.Scene, scenes.Scene]:
    return scene, changes.change(scene, kind, rng)


def check(folder: Path, device: str, pairs: Pairs, settings: dict[str, float]) -> None:
    """Prints the accuracy of a checkpoint in float32, and writes it beside the weights with what is known of it."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    result = settings | pairs.accuracy(model)
    (folder / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/recap-tiny-clip"))
    parser.add_argument("--check", type=Path, help="print the accuracy of this checkpoint, and train nothing")
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=14, help="that draw")
    parser.add_argument("--capacity", type=int, default=400_000, help="examples that are kept: 30 KB each")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--num-wrong", type=int, default=3, help="wrong texts of a picture in a step")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--reading-weight", type=float, default=0.5, help="of the reading loss; it falls to nothing")
    parser.add_argument("--report-seconds", type=float, default=60)
    args = parser.parse_args()
    if args.check:
        written = args.check / "accuracy.json"
        known = json.loads(written.read_text()) if written.exists() else {}
        check(args.check, args.device, Pairs.draw(args.check), known)
    else:
        train(args)
