"""Trains recap-tiny, the demo's captioner: a LLaVA of four million parameters, on scenes drawn as it goes.

    python demo/train.py --output demo/recap-tiny            # about an hour on one core of a 2025 CPU

The model is transformers' own LlavaForConditionalGeneration, saved as any LLaVA is, so that it goes through the same
`recap-fast build-engine` and `run` as the 8B model. A second process draws; the first trains, in bfloat16 where the
CPU has it. Beside the caption loss a small head (thrown away afterwards) asks the projected image tokens what is in
each cell of the grid: told directly what to see, the vision tower learns in minutes what captions alone teach in hours.
"""

import argparse
import io
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import scenes
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # beside demo/
from inputs.vocabularies import SPECIAL_TOKENS, train_vocabulary

IMAGE_SIZE, PATCH = 96, 16
NUM_IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of red, green and blue
STD = (0.26862954, 0.26130258, 0.27577711)
PROMPT = "Please generate a detailed caption of this image. Please be as descriptive as possible."
BEFORE = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
AFTER = f"\n{PROMPT}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


def train_tokenizer() -> Tokenizer:
    """Llama-3's byte-level BPE in small, learnt from our captions and the prompt."""
    rng = np.random.default_rng(0)
    corpus = [scenes.caption(scenes.random_scene(rng)) for _ in range(4000)] + [f"user\n\n{PROMPT}assistant\n\n"] * 400
    return train_vocabulary(corpus, 640)


def build_model(tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """A LLaVA-1.5 of the usual parts: CLIP ViT, two-layer GELU projector, Llama decoder with grouped heads."""
    ids = {t: tokenizer.token_to_id(t) for t in SPECIAL_TOKENS}
    text = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_theta=10000.0,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|eot_id|>"],
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=5,  # the last one is not used: LLaVA reads the layer before it
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=192,
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=ids["<image>"], vision_feature_layer=-2
    )
    config.image_seq_length = NUM_IMAGE_TOKENS
    torch.manual_seed(0)
    # eager attention: torch's fused one is slow backwards in bfloat16 on a CPU (1.8 s a step against 1.3 s)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        model.model.vision_tower.embeddings.position_embedding.weight[1:] = grid_waves(IMAGE_SIZE // PATCH, 192)
    return model


def grid_waves(grid: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column, [grid * grid, width]: neighbors start out alike, which saves the ViT from
    finding out by itself which patches touch."""
    rates = torch.pi / grid * torch.arange(1, width // 4 + 1) * grid / (width // 4)
    waves = torch.cat([f(torch.arange(grid)[:, None] * rates) for f in (torch.sin, torch.cos)], 1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    return 0.5 * torch.cat([rows, columns], -1).flatten(0, 1)


class SceneReader(nn.Module):
    """The training aid: from each projected image token, what is in the grid cell that its patch lies in."""

    def __init__(self, width: int):
        super().__init__()
        kinds = (len(scenes.PLACES), len(scenes.SHAPES), len(scenes.COLORS), len(scenes.SIZES))
        self.sizes = [*(n + 1 for n in kinds), len(scenes.BACKGROUNDS)]
        self.head = nn.Linear(width, sum(self.sizes))

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`tokens` [n, 36, D]; `labels` int64 [n, 36, 5]: place, shape, color, size (0 is none) and background."""
        predicted = self.head(tokens).float().flatten(0, 1).split(self.sizes, dim=-1)
        pairs = zip(predicted, labels.flatten(0, 1).unbind(-1), strict=True)
        return sum(F.cross_entropy(logits, label) for logits, label in pairs)


def preprocess(image: Image.Image) -> np.ndarray:
    """LLaVA-1.5's `pad` then CLIP's resize, as uint8 [3, H, W]."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def make_example(scene: scenes.Scene, tokenizer: Tokenizer, quality: int) -> dict:
    """One scene as the model sees it: pixels after a trip through JPEG, what each patch shows, caption ids."""
    pixels = preprocess(Image.open(io.BytesIO(scenes.jpeg(scene, quality))))
    ids = [*tokenizer.encode(scenes.caption(scene), add_special_tokens=False).ids, tokenizer.token_to_id("<|eot_id|>")]
    return {"pixels": pixels, "labels": patch_labels(scene), "ids": ids}


def patch_labels(scene: scenes.Scene) -> np.ndarray:
    """int64 [36, 5]: place, shape, color and size (0 is none) in the cell of each patch's center, and background."""
    side, grid = max(scene.width, scene.height), IMAGE_SIZE // PATCH
    things = {t.place: t for t in scene.things}
    labels = np.zeros((grid * grid, 5), np.int64)
    labels[:, 4] = tuple(scenes.BACKGROUNDS).index(scene.background)
    for patch in range(grid * grid):
        y, x = ((c + 0.5) / grid * side for c in divmod(patch, grid))
        row = (y - (side - scene.height) / 2) / scene.height * 3
        column = (x - (side - scene.width) / 2) / scene.width * 3
        if not (0 <= row < 3 and 0 <= column < 3):
            continue  # the patch shows the square's padding
        place = int(row) * 3 + int(column)
        labels[patch, 0] = place + 1
        if thing := things.get(place):
            labels[patch, 1] = scenes.SHAPES.index(thing.shape) + 1
            labels[patch, 2] = tuple(scenes.COLORS).index(thing.color) + 1
            labels[patch, 3] = tuple(scenes.SIZES).index(thing.size) + 1
    return labels


def draw_batches(queue: multiprocessing.Queue, seed: int, batch_size: int, vocabulary: str) -> None:
    """The drawing process: batches of scenes of like caption length, for ever."""
    tokenizer = Tokenizer.from_str(vocabulary)
    rng = np.random.default_rng(seed)
    while True:
        pool = [
            make_example(scenes.random_scene(rng), tokenizer, int(rng.integers(75, 96))) for _ in range(8 * batch_size)
        ]
        pool.sort(key=lambda example: len(example["ids"]))
        for start in rng.permutation(8) * batch_size:
            queue.put(collate(pool[start : start + batch_size]))


def collate(examples: list[dict]) -> dict[str, np.ndarray]:
    """Stacks examples; caption ids are padded with -100, the id that the loss leaves out."""
    ids = np.full((len(examples), max(len(e["ids"]) for e in examples)), -100, np.int64)
    for row, example in zip(ids, examples, strict=True):
        row[: len(example["ids"])] = example["ids"]
    return {"ids": ids, **{name: np.stack([e[name] for e in examples]) for name in ("pixels", "labels")}}


def normalize(pixels: np.ndarray) -> torch.Tensor:
    """float32 [n, 3, H, W] as CLIP takes it, of uint8 pixels."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def embed(model: LlavaForConditionalGeneration, pixels: np.ndarray) -> torch.Tensor:
    """Projected image tokens [n, 36, D] of uint8 pixels [n, 3, H, W]."""
    states = model.model.vision_tower(normalize(pixels), output_hidden_states=True).hidden_states[-2][:, 1:]
    return model.model.multi_modal_projector(states)


def caption_loss(
    model, tokens: torch.Tensor, ids: np.ndarray, before: torch.Tensor, after: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the captions [n, T] after the prompt and the image tokens [n, 36, D]."""
    words, n = model.get_input_embeddings(), len(tokens)
    labels = torch.from_numpy(ids)
    text = words(torch.cat([after.expand(n, -1), labels.clamp(min=0)[:, :-1]], 1))
    x = torch.cat([words(before).expand(n, -1, -1), tokens, text], 1)
    states = model.model.language_model(inputs_embeds=x, use_cache=False).last_hidden_state[:, -labels.shape[1] :]
    return F.cross_entropy(model.lm_head(states).float().flatten(0, 1), labels.flatten(), ignore_index=-100)


@torch.no_grad()
def evaluate(model, tokenizer: Tokenizer, count: int, seed: int = 10**6) -> dict[str, float]:
    """Share of unseen scenes whose greedy caption is right, word for word, and by number of objects."""
    rng = np.random.default_rng(seed)
    drawn = [scenes.random_scene(rng) for _ in range(count)]
    right: dict[int, list[bool]] = {n: [] for n in range(1, scenes.MAX_OBJECTS + 1)}
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in (BEFORE, AFTER)]
    prompt = torch.tensor([ids[0] + [tokenizer.token_to_id("<image>")] * NUM_IMAGE_TOKENS + ids[1]])
    for start in range(0, count, 100):
        group = drawn[start : start + 100]
        pixels = np.stack([make_example(s, tokenizer, 90)["pixels"] for s in group])
        out = model.generate(
            input_ids=prompt.expand(len(group), -1),
            attention_mask=torch.ones(len(group), prompt.shape[1], dtype=torch.long),
            pixel_values=normalize(pixels),
            max_new_tokens=128,
            do_sample=False,
            pad_token_id=tokenizer.token_to_id("<pad>"),
        )[:, prompt.shape[1] :]
        for scene, row in zip(group, out.tolist(), strict=True):
            right[len(scene.things)].append(tokenizer.decode(row).strip() == scenes.caption(scene))
    exact = sum(map(sum, right.values())) / count
    return {"exact": exact, **{f"objects_{n}": round(sum(r) / max(1, len(r)), 4) for n, r in right.items()}}


def save(model, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the checkpoint as transformers does, in bfloat16, with tokenizer and preprocessing beside it."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": size,
        "resample": 3,
    }
    processor |= {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def load(folder: Path) -> LlavaForConditionalGeneration:
    """A saved checkpoint, in float32."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def train(args: argparse.Namespace) -> None:
    """Trains for `args.minutes`; the learning rate is constant for the first half and then falls to nothing."""
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer) if args.resume is None else load(args.resume)
    reader = SceneReader(model.config.text_config.hidden_size)
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    before, after = (torch.tensor(tokenizer.encode(t, add_special_tokens=False).ids) for t in (BEFORE, AFTER))
    queue: multiprocessing.Queue = multiprocessing.Queue(16)
    drawer = multiprocessing.Process(
        target=draw_batches, args=(queue, 1, args.batch_size, tokenizer.to_str()), daemon=True
    )
    drawer.start()
    start = time.monotonic()
    step = 0
    caption = torch.tensor(float("nan"))
    while (spent := time.monotonic() - start) < args.minutes * 60:
        share = spent / (args.minutes * 60)  # the schedule follows the clock: the time is what is given
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, step / 100, 2 * (1 - share))
        batch = queue.get()
        with torch.autocast("cpu", torch.bfloat16):
            tokens = embed(model, batch["pixels"])
            loss = reading = reader.loss(tokens, torch.from_numpy(batch["labels"]))
            if spent > args.reading_minutes * 60:
                caption = caption_loss(model, tokens, batch["ids"], before, after)
                loss = caption + args.reading_weight * reading
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            print(f"{spent / 60:6.1f} min  step {step:5d}  caption {caption:.4f}  reading {reading:.4f}", flush=True)
        if step % args.evaluate_every == 0 and not caption.isnan():
            print(f"          {evaluate(model, tokenizer, 100)}", flush=True)
            torch.save(model.state_dict(), args.output.with_suffix(".pt"))
    drawer.terminate()
    save(model, tokenizer, args.output)
    result = {**evaluate(load(args.output), tokenizer, 1000), "scenes": 1000, "steps": step, "minutes": args.minutes}
    (args.output / "accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
    print(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="go on from this checkpoint")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--reading-minutes", type=float, default=10, help="at the start, train the eye alone")
    parser.add_argument("--reading-weight", type=float, default=0.3, help="of the reading loss beside the caption's")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluate-every", type=int, default=1000)
    train(parser.parse_args())
