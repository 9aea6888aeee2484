"""Tuning: a real one of the tiny engine, and simulated engines whose best sizes and rates are known."""

import hashlib
import json
import time
import weakref
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.engines import FakeEngine

from inputs import shapes
from inputs.oracle import make_pair
from recap_fast.bench import tune as tuning
from recap_fast.bench.tune import GPU_CANDIDATES, estimate_rate, gpu_candidates, num_waves, tune
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.device import device_name
from recap_fast.generate.engine import Statistics
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import EngineSpec, Sizes
from recap_fast.generate.torch_backend.memory import OVERHEAD_BYTES, plan_memory
from recap_fast.generate.torch_backend.sizes import read_tuning

CPU = device_name(torch.device("cpu"))
TWO_PROMPTS = """
prompt = "both"
[prompts]
short = "What is it?"
long = "What is in the image, and where?"
[prompt_sets]
both = ["short", "long"]
[sampling]
temperature = 0.5
top_p = 0.9
[limits]
max_new_tokens = 24
"""
LENGTH = 23.4
"""Of a caption on average, of 24 tokens at most."""


def sizes(num_slots, prefill_images):
    return Sizes(num_slots=num_slots, prefill_images=prefill_images)


@pytest.fixture
def engine_folder(tiny_engine, tmp_path):
    """The tiny engine once more, so that nobody else's is tuned."""
    for file in tiny_engine.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    return tmp_path


class SimulatedEngine(FakeEngine):
    """A step takes 10 ms, and one more for each image that joins and each 32 slots; captions have their full length."""

    def __init__(self, options, clock):
        super().__init__(options.num_slots)
        self.options, self.clock, self.statistics, self.closed = options, clock, Statistics(), False
        self.joining, self.asked = [], []

    @property
    def free_slots(self):
        return super().free_slots - len(self.joining)

    def submit(self, requests):
        self.joining += requests
        self.asked += requests

    def step(self, *, more=False):
        images = sorted({request.image_id for request in self.joining})[: self.options.prefill_images]
        joining = [request for request in self.joining if request.image_id in images]
        self.joining = [request for request in self.joining if request.image_id not in images]
        self._running |= {request.id: (request, request.max_new_tokens) for request in joining}
        self.statistics.captions += len(joining)
        self.clock.now += 0.010 + 0.001 * len(joining) + 0.001 * self._num_slots / 32
        done = [number for number, (_, left) in self._running.items() if left == 1]
        self._running = {n: (r, left - 1) for n, (r, left) in self._running.items() if left > 1}
        return done

    def close(self):
        self.closed = True


@pytest.fixture
def simulated(monkeypatch):
    """Opened engines, in order; those of 999 slots are refused and those of 998 break."""
    # time passes only where the simulation says so
    clock, opened = SimpleNamespace(now=0.0), []
    clock.perf_counter = lambda: clock.now

    def open_simulated(prepared, options):
        assert prepared.spec.stop_ids == ()
        assert not options.loop_stop
        if options.num_slots == 999:
            raise ConfigError("999 slots do not fit")
        opened.append(SimulatedEngine(options, clock))
        if options.num_slots == 998:
            opened[-1].step = lambda: (_ for _ in ()).throw(EngineError("out of memory"))
        return opened[-1]

    monkeypatch.setattr(PreparedEngine, "open", open_simulated)
    monkeypatch.setattr(tuning, "time", clock)
    return opened


def test_the_tiny_engine_is_tuned_and_its_captions_stay_what_they_are(engine_folder):
    before = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in engine_folder.iterdir()}
    assert read_tuning(engine_folder, CPU) is None
    points = [sizes(4, 1), sizes(8, 2), sizes(8, 4)]
    started = time.perf_counter()
    found = tune(engine_folder, "cpu", seconds=0.05, candidates=points, say=lambda line: None)
    took = time.perf_counter() - started
    assert {sizes(t.num_slots, t.prefill_images) for t in found.trials} == set(points)
    assert [t.seconds >= 0.05 for t in found.trials[:3]] == [t.seconds >= 0.1 for t in found.trials[3:]] == [True] * 3
    assert sum(t.seconds for t in found.trials) < took
    assert read_tuning(engine_folder, CPU) == sizes(found.best.num_slots, found.best.prefill_images)
    assert read_tuning(engine_folder, "NVIDIA H200") is None
    after = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in engine_folder.iterdir()}
    assert after.pop("tuning.json")
    assert after == before


def test_the_fastest_sizes_are_kept(engine_folder, simulated):
    """As many captions end at a step as join: `prefill_images`, or slots / length where that is less."""
    points = [sizes(slots, n) for slots in (16, 64, 256) for n in (1, 2, 4)]
    lines: list[str] = []
    found = tune(engine_folder, "cpu", seconds=20, candidates=points, say=lines.append)
    rates = {(t.num_slots, t.prefill_images): t.images_per_s for t in found.trials[:9]}
    assert rates[256, 4] == pytest.approx(4 / (0.010 + 0.004 + 0.008), rel=0.02)
    assert rates[64, 1] == pytest.approx(1 / (0.010 + 0.001 + 0.002), rel=0.02)
    assert rates[64, 4] == pytest.approx((64 / LENGTH) / (0.010 + 0.001 * 64 / LENGTH + 0.002), rel=0.02)
    assert rates[16, 4] == pytest.approx((16 / LENGTH) / (0.010 + 0.001 * 16 / LENGTH + 0.0005), rel=0.02)
    assert max(rates, key=rates.get) == (64, 4) == (found.best.num_slots, found.best.prefill_images)
    first, second = found.trials[:9], found.trials[9:]
    assert len(second) == 3
    for trials in (first, second):
        assert all(a.images_per_s >= b.images_per_s for a, b in pairwise(trials))
    assert found.best == second[0]
    assert all(engine.closed for engine in simulated)
    assert lines[0] == f"tuning on {CPU}: 9 pairs of sizes, at least 20 s each"
    assert lines[1].startswith("  num_slots   16, prefill_images  1:")
    table = found.table().splitlines()
    assert table[0].split() == ["num_slots", "prefill_images", "images/s", "seconds"]
    assert len(table) == 1 + 12
    assert [line.split()[:2] for line in table if line.endswith("<- kept")] == [["64", "4"]]


def test_sizes_that_cannot_be_had_are_passed_over(engine_folder, simulated):
    lines = []
    points = [sizes(999, 4), sizes(998, 4), sizes(16, 2)]
    found = tune(engine_folder, "cpu", seconds=1, candidates=points, say=lines.append)
    assert (found.best.num_slots, len(found.trials)) == (16, 2)
    assert lines[1:3] == [
        "  num_slots  999, prefill_images  4: 999 slots do not fit",
        "  num_slots  998, prefill_images  4: out of memory",
    ]
    assert all(engine.closed for engine in simulated)
    with pytest.raises(ConfigError, match="999 slots do not fit"):
        tune(engine_folder, "cpu", seconds=1, candidates=[sizes(999, 4)], say=lines.append)


def test_an_engine_that_asks_several_prompts_is_tuned_with_them(tmp_path, simulated):
    """As many images end at a step as slots / length of a pair of captions, and both captions join at the same step."""
    (tmp_path / "recipe.toml").write_text(TWO_PROMPTS)
    folder = make_pair(tmp_path, recipe=str(tmp_path / "recipe.toml")).folder
    lines: list[str] = []
    found = tune(folder, "cpu", seconds=20, candidates=[sizes(64, 2)], say=lines.append)
    assert lines[0] == f"tuning on {CPU}: 1 pair of sizes, at least 20 s each, 2 captions an image"
    assert found.best.images_per_s == pytest.approx((32 / LENGTH) / (0.010 + 0.001 * 64 / LENGTH + 0.002), rel=0.02)
    assert (simulated[0].options.sampling.temperature, simulated[0].options.sampling.top_p) == (0.5, 0.9)
    asked = simulated[0].asked[:8]
    assert [request.same_image_as for request in asked] == [None, 0, None, 2, None, 4, None, 6]
    assert all(np.shares_memory(a.pixels, b.pixels) for a, b in zip(asked[::2], asked[1::2], strict=True))
    assert [len(request.text_ids) for request in asked[:2]] == [len(request.text_ids) for request in asked[2:4]]
    assert len(asked[0].text_ids) != len(asked[1].text_ids)
    assert json.loads((folder / "tuning.json").read_text())["devices"][CPU]["captions_per_image"] == 2
    points = {(t.num_slots, t.prefill_images) for t in tune(folder, "cpu", seconds=0.1, say=lines.append).trials}
    assert points == {
        *((8, 1), (16, 1), (16, 2), (32, 1), (32, 2), (32, 4), (64, 2), (64, 4), (64, 8)),
        *((96, 8), (128, 4), (128, 8), (128, 16)),
    }


def test_a_drawn_prompt_is_one_caption_an_image(tmp_path, simulated):
    (tmp_path / "recipe.toml").write_text(TWO_PROMPTS.replace('["short", "long"]', "{ short = 1, long = 1 }"))
    folder = make_pair(tmp_path, recipe=str(tmp_path / "recipe.toml")).folder
    found = tune(folder, "cpu", seconds=1, candidates=[sizes(16, 2)], say=lambda line: None)
    assert found.captions_per_image == 1


def test_each_device_has_its_entry(engine_folder, simulated):
    file = engine_folder / "tuning.json"
    other = {"num_slots": 320, "prefill_images": 5, "images_per_s": 20.0}
    file.write_text(json.dumps({"format": 1, "devices": {"NVIDIA A100": other}}))
    for slots in (16, 32):
        found = tune(engine_folder, "cpu", seconds=1, candidates=[sizes(slots, 2)], say=lambda line: None)
        content = json.loads(file.read_text())
        assert content["devices"].keys() == {"NVIDIA A100", CPU}
        assert content["devices"]["NVIDIA A100"] == other
        entry = content["devices"][CPU]
        assert (entry["num_slots"], entry["images_per_s"]) == (slots, found.best.images_per_s)
        assert entry["versions"]["torch"] == torch.__version__
        assert len(entry["trials"]) == 2
        assert read_tuning(engine_folder, CPU) == sizes(slots, 2)
    assert read_tuning(engine_folder, "NVIDIA A100") == sizes(320, 5)


def test_a_cpu_gets_a_grid_and_what_the_engine_has(engine_folder, simulated):
    found = tune(engine_folder, "cpu", seconds=0.1, say=lambda line: None)
    tried = {(t.num_slots, t.prefill_images) for t in found.trials}
    assert tried == {
        *((8, 1), (8, 2), (8, 4), (16, 1), (16, 2), (16, 4), (32, 2), (32, 4), (32, 8)),
        *((64, 4), (64, 8), (64, 16), (128, 8), (128, 16), (128, 32)),
    }


def test_a_gpu_gets_the_best_estimates_of_what_fits(engine_folder, simulated, monkeypatch):
    free = OVERHEAD_BYTES + (12 << 20)
    monkeypatch.setattr(tuning, "resolve_device", torch.device)
    monkeypatch.setattr(tuning, "device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=8))
    found = tune(engine_folder, "cuda", seconds=0.1, say=lambda line: None)
    assert [(t.num_slots, t.prefill_images) for t in found.trials if t.num_slots == 8][:1] == [(8, 4)]
    assert len({(t.num_slots, t.prefill_images) for t in found.trials}) == 1 + GPU_CANDIDATES
    spec = EngineSpec.load(engine_folder)
    for trial in found.trials:
        plan = plan_memory(spec, spec.slot_shape(5), sizes(trial.num_slots, trial.prefill_images))
        assert plan.total <= free
    assert 128 <= max(t.num_slots for t in found.trials) < tuning.MAX_GPU_SLOTS
    assert read_tuning(engine_folder, "NVIDIA Test") is not None


def test_a_wave_that_is_begun_counts():
    # 8 images of 600 rows and 448 slots on an H200: 41 * 16 tiles of 132 are 4.97 waves; one row more begins a sixth
    assert num_waves(5248, 4096, 132) == 5
    assert num_waves(5249, 4096, 132) == 6
    assert num_waves(1, 256, 1) == num_waves(1, 1, 1) == 1


def test_the_estimate_is_that_worked_out_by_hand():
    decoder = 32 * (4096 * (8 + 5 + 35) + 14336 * 5)  # waves of 5248 rows: QKV, O, gate and up; down
    tower = 23 * (1024 * (4 + 2 + 5) + 4096 * 2)  # of 8 * 577 rows, the class token among them
    decode = 32 * (4096 * (1 + 1 + 4) + 14336 * 1)
    begun = (448 - 3.5) / 66
    for precision, faster in (("bfloat16", 1), ("fp8", 1.6), ("int8", 1.6)):
        spec, share = shapes.llava_llama3_8b(precision=precision), begun / 8
        expected = begun / (share * (decoder / faster + tower) + (1 - share) * decode / faster)
        assert estimate_rate(spec, spec.slot_shape(5), sizes(448, 8), 132) == pytest.approx(expected)
        enough, more = (estimate_rate(spec, spec.slot_shape(5), sizes(slots, 4), 108) for slots in (272, 304))
        assert more < enough, "four images a step are 264 captions: the other slots wait, and are computed"


@pytest.mark.parametrize(
    ("precision", "num_units", "most_slots", "best"),
    [
        ("bfloat16", 132, 640, (640, 13)),  # 8440 rows are 66 row tiles: whole waves in all products of the decoder
        ("fp8", 132, 448, (448, 8)),
        ("bfloat16", 132, 448, (448, 8)),
        ("bfloat16", 108, 320, (320, 5)),
        ("int8", 108, 256, (256, 5)),
        ("bfloat16", 108, 160, (160, 4)),
    ],
)
def test_gpu_sizes_are_those_with_the_best_estimate(precision, num_units, most_slots, best):
    spec = shapes.llava_llama3_8b(precision=precision)
    shape = spec.slot_shape(5)
    points = gpu_candidates(spec, shape, num_units, most_slots)
    rates = [estimate_rate(spec, shape, point, num_units) for point in points]
    assert points[0] == sizes(*best)
    assert len({p.prefill_images for p in points}) == len(points) == GPU_CANDIDATES
    assert all(128 <= p.num_slots <= most_slots for p in points)
    assert rates == sorted(rates, reverse=True)


def test_gpu_sizes_where_few_slots_fit():
    spec = shapes.llava_llama3_8b()
    assert set(gpu_candidates(spec, spec.slot_shape(5), 132, most_slots=5)) == {sizes(5, 4), sizes(5, 5)}


def test_an_engine_that_cannot_be_opened_leaves_its_memory_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def measure(*_: object) -> None:
        assert all(cache() is None for cache in held)
        cache = torch.zeros(1)
        held.append(weakref.ref(cache))
        raise ConfigError("An engine of 8 slots does not fit") from torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tuning._Tuner, "measure", measure)
    points = [sizes(16, 1), sizes(8, 1)]
    with pytest.raises(ConfigError, match="does not fit"):
        tuning._Tuner.__new__(tuning._Tuner).try_all(points, 1.0, print)
    assert len(held) == 2
