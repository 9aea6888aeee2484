"""Operations and bytes, beside figures worked out by hand for LLaVA-LLaMA3-8B and beside what torch counts."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inputs import checkpoints, oracle, shapes
from recap_fast.bench import roofline
from recap_fast.bench.roofline import Rates, Roofline, difference, operations, snapshot
from recap_fast.generate.engine import Statistics

TERA = 1e12
LLAVA_LLAMA3_8B = shapes.llava_llama3_8b()
PREFIX, NEW = 20, 600
RATES = Rates(precisions=("bfloat16", "bfloat16"), linear=788e12, other=788e12, copy=4.3e12)


def image(num_tokens: int, **more: float) -> Statistics:
    """One image with a caption of so many tokens: the first comes from the prefill, each other from a decode row."""
    rows = num_tokens - 1
    positions = sum(range(PREFIX + NEW + 1, PREFIX + NEW + rows + 1))
    return Statistics(images=1, captions=1, prompt_tokens=NEW, decode_rows=rows, kv_positions=positions, **more)


def test_operations_of_an_image_are_those_worked_out_by_hand():
    of_65, of_128 = (
        {part: count / TERA for part, count in operations(LLAVA_LLAMA3_8B, image(tokens), PREFIX).items()}
        for tokens in (65, 128)
    )
    for found in (of_65, of_128):
        assert found["vision_linear"] == pytest.approx(0.3342 + 0.0007, rel=0.01)
        assert found["vision_attention"] == pytest.approx(0.0314, rel=0.01)
        assert found["projector"] == pytest.approx(0.0242, rel=0.01)
        assert found["prefill_linear"] == pytest.approx(8.124, rel=1e-3)
        assert found["prefill_attention"] == pytest.approx(0.098, rel=0.01)
    assert of_65["decode_linear"] + of_65["head"] == pytest.approx(0.961 + 0.001, rel=2e-3)
    assert of_128["decode_linear"] + of_128["head"] == pytest.approx(1.906 + 0.001, rel=2e-3)
    assert of_65["decode_attention"] == pytest.approx(0.0219, rel=0.01)
    assert of_128["decode_attention"] == pytest.approx(0.0455, rel=0.01)
    assert sum(of_65.values()) == pytest.approx(9.595, rel=1e-3)
    assert sum(of_128.values()) == pytest.approx(10.565, rel=1e-3)


def test_further_captions_of_an_image_cost_their_texts_and_tokens_alone():
    """A second text of 24 tokens behind 576 of the image: each of its rows sees the prefix, the image and itself."""
    text = 24
    one, two = (
        operations(LLAVA_LLAMA3_8B, Statistics(images=1, captions=n, prompt_tokens=576 + n * text), PREFIX)
        for n in (1, 2)
    )
    assert all(one[part] == two[part] for part in ("vision_linear", "vision_attention", "projector"))
    assert two["head"] == 2 * one["head"]
    layer, keys_values = 2 * 218_103_808, 2 * 2 * 4096 * 1024
    assert two["prefill_linear"] - one["prefill_linear"] == text * (31 * layer + keys_values) + layer - keys_values
    pairs = sum(PREFIX + 576 + row for row in range(1, text + 1))
    last = PREFIX + 576 + text
    assert two["prefill_attention"] - one["prefill_attention"] == 4 * 4096 * (31 * pairs + last)


def test_bytes_of_weights_and_of_a_position():
    assert roofline.decode_weight_bytes(LLAVA_LLAMA3_8B, 2, 2) / 1e9 == pytest.approx(13.96 + 1.05, rel=1e-3)
    assert roofline.decode_weight_bytes(LLAVA_LLAMA3_8B, 1, 2) / 1e9 == pytest.approx(6.98 + 1.05, rel=1e-3)
    assert roofline.kv_bytes_per_position(LLAVA_LLAMA3_8B, 2) == 128 << 10
    assert roofline.kv_bytes_per_position(LLAVA_LLAMA3_8B, 1) == 64 << 10
    for tokens, gigabytes in ((65, 5.47), (128, 11.39)):
        read = image(tokens).kv_positions * roofline.kv_bytes_per_position(LLAVA_LLAMA3_8B, 2)
        assert read / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("precision", "faster", "product", "copy", "of_65", "of_128"),
    [
        ("bfloat16", 1.0, 788e12, 4.3e12, 74.5, 62.5),  # an H200
        ("fp8", 1.5, 788e12, 4.3e12, 111, 95),
        ("fp8", 1.8, 788e12, 4.3e12, 130, 110),
        ("bfloat16", 1.0, 700e12, 3.0e12, 64.5, 53.1),  # an H100
        ("fp8", 1.6, 700e12, 3.0e12, 103, 86),
        ("bfloat16", 1.0, 255e12, 1.75e12, 24.6, 20.9),  # an A100
    ],
)
def test_a_perfect_serial_engine_has_the_whole_roofline(monkeypatch, precision, faster, product, copy, of_65, of_128):
    """The limits worked out by hand: FP8 has an FP8 cache, and its linear layers alone are `faster`."""
    rates = dataclasses.replace(RATES, linear=faster * product, other=product, copy=copy)
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: rates)
    kv_precision = "fp8" if precision == "fp8" else "auto"
    spec = dataclasses.replace(LLAVA_LLAMA3_8B, precision=precision, kv_precision=kv_precision)
    perfect = Roofline(spec, torch.device("cpu"), PREFIX)
    for num_tokens, images_per_s in ((65, of_65), (128, of_128)):
        assert perfect.figures(image(num_tokens), 1 / images_per_s).share == pytest.approx(1, rel=0.01)
        assert perfect.figures(image(num_tokens), 2 / images_per_s).share == pytest.approx(0.5, rel=0.01)


def test_the_least_time_of_an_image_is_that_of_its_work(monkeypatch):
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: RATES)
    perfect = Roofline(LLAVA_LLAMA3_8B, torch.device("cpu"), PREFIX)
    num_text = NEW - LLAVA_LLAMA3_8B.vision.num_image_tokens
    assert perfect.least_seconds(num_text, 65) == pytest.approx(perfect.figures(image(65), 1.0).share)


def test_only_the_linear_layers_of_the_decoder_run_at_the_rate_of_fp8(monkeypatch):
    fast = dataclasses.replace(RATES, linear=2 * RATES.linear)
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: fast)
    spec = dataclasses.replace(LLAVA_LLAMA3_8B, precision="fp8", kv_precision="fp8")
    work = image(65)
    parts = operations(spec, work, PREFIX)
    linear = parts["prefill_linear"] + parts["decode_linear"]
    least = linear / fast.linear + (sum(parts.values()) - linear) / fast.other
    least += work.kv_positions * (64 << 10) / fast.copy
    assert Roofline(spec, torch.device("cpu"), PREFIX).figures(work, least).share == pytest.approx(1)


def test_bandwidth_is_of_the_steps_that_only_decode(monkeypatch):
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: RATES)
    measured = Roofline(LLAVA_LLAMA3_8B, torch.device("cpu"), PREFIX)
    done = image(65, decode_steps=10, decode_step_kv_positions=1000, decode_s=0.1)
    read = 10 * roofline.decode_weight_bytes(LLAVA_LLAMA3_8B, 2, 2) + 1000 * (128 << 10)
    assert measured.figures(done, 1.0).decode_bytes_per_s == pytest.approx(read / 0.1)
    assert measured.figures(image(65), 1.0).decode_bytes_per_s is None


def test_operations_are_those_that_torch_counts_in_transformers(tmp_path):
    """Prefill of one image, without our savings: the last layer for all rows, and no position computed before."""
    pair = oracle.make_pair(tmp_path)
    request = oracle.random_requests(pair, 1)[0]
    inputs = pair.inputs(request.pixels, request.text_ids)
    new = inputs["input_ids"].shape[1]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        pair.model(**inputs, logits_to_keep=1)
    counted = counter.get_flop_counts()
    spec, text = pair.spec, pair.spec.text
    work = Statistics(images=1, captions=1, prompt_tokens=new)
    found = operations(spec, work, 0)
    assert found["head"] == counted["LlavaForConditionalGeneration.lm_head"][torch.ops.aten.mm]
    assert found["projector"] == sum(counted["LlavaForConditionalGeneration.model.multi_modal_projector"].values())
    one_more = dataclasses.replace(spec, text=dataclasses.replace(text, num_layers=text.num_layers + 1))
    layer = operations(one_more, work, 0)["prefill_linear"] - found["prefill_linear"]
    theirs = counted["LlavaForConditionalGeneration.model.language_model"][torch.ops.aten.mm]
    assert layer * text.num_layers == theirs


@pytest.mark.parametrize("size", ["tiny", "siglip-tiny"])
def test_operations_of_a_tower_are_those_that_torch_counts_in_transformers(size):
    """All but the last layer run, and neither the norm behind it nor SigLIP's pooling."""
    shape = shapes.SHAPES[size]
    tower = checkpoints.make_model(checkpoints.make_config(shape, 639)).model.vision_tower
    tower.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        tower(torch.zeros(1, 3, shape.vision.image_size, shape.vision.image_size))
    counted = counter.get_flop_counts()
    layer = counted[f"{type(tower).__name__}.encoder.layers.0"]
    patches = sum(counted[f"{type(tower).__name__}.embeddings.patch_embedding"].values())
    spec = shapes.llava_llama3_8b(vision=shape.vision, text=shape.text)
    found = operations(spec, Statistics(images=1, captions=1, prompt_tokens=shape.vision.num_image_tokens), 0)
    layers = shape.vision.num_layers
    assert found["vision_linear"] == patches + layers * layer[torch.ops.aten.addmm]
    assert found["vision_attention"] == layers * layer[torch.ops.aten.bmm]


def test_operations_of_joycaption_are_those_worked_out_by_hand():
    """SigLIP-so400m on 729 patches, 26 layers, and Llama 3.1 8B behind a prompt of 42 positions before the image."""
    shape = shapes.SHAPES["joycaption"]
    spec = shapes.llava_llama3_8b(vision=shape.vision, text=shape.text)
    work = Statistics(images=1, captions=1, prompt_tokens=753, decode_rows=249, kv_positions=sum(range(796, 1045)))
    found = {part: count / TERA for part, count in operations(spec, work, 42).items()}
    assert found["vision_linear"] == pytest.approx(2 * 729 * (26 * 15.225e6 + 588 * 1152) / TERA, rel=1e-3)
    assert found["vision_attention"] == pytest.approx(4 * 26 * 729**2 * 1152 / TERA)
    assert found["projector"] == pytest.approx(2 * 729 * 5248 * 4096 / TERA)
    assert found["prefill_linear"] == pytest.approx(10.195, rel=1e-3)
    assert found["decode_linear"] == pytest.approx(2 * 249 * 6.98e9 / TERA, rel=1e-3)
    assert sum(found.values()) == pytest.approx(14.89, rel=1e-3)


def test_rates_are_measured_and_told(monkeypatch):
    monkeypatch.setattr(roofline, "CPU_SIDE", 64)
    monkeypatch.setattr(roofline, "CPU_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(roofline, "MEASURE_S", 0.0)
    device = torch.device("cpu")
    for linear in (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn):
        other = linear if linear.itemsize > 1 else torch.float32
        rates = roofline.measure_rates(device, linear, other)
        assert min(rates.linear, rates.other, rates.copy) > 0
        assert rates.precisions == (str(linear).removeprefix("torch."), str(other).removeprefix("torch."))
        assert linear != other or rates.linear == rates.other
    told = str(dataclasses.replace(RATES, precisions=("float8_e4m3fn", "bfloat16"), linear=1.2e15))
    assert told == "1,200.00 TFLOP/s float8_e4m3fn, 788.00 TFLOP/s bfloat16; copy 4,300 GB/s"
    assert str(RATES) == "788.00 TFLOP/s bfloat16; copy 4,300 GB/s"


def test_the_difference_of_two_snapshots():
    now = Statistics(images=2, mixed_s=0.5, startup_s={"weights": 1.0})
    now.idle_s["host"] = 0.25
    before = snapshot(now)
    now.images, now.mixed_s = 7, 0.75
    now.idle_s["host"] = 1.0
    done = difference(before, now)
    assert (done.images, done.mixed_s, done.decode_rows) == (5, 0.25, 0)
    assert done.idle_s == {"input": 0.0, "host": 0.75}
    assert done.startup_s == {"weights": 1.0}
    assert before.images == 2
