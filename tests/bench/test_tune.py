"""Tuning: a real one of the tiny engine, and simulated engines whose best sizes and rates are known."""

import hashlib
import json
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.engines import FakeEngine

from recap_fast.bench import tune as tuning
from recap_fast.bench.tune import gpu_candidates, tune, wave_share
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.device import device_name
from recap_fast.generate.engine import Statistics
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import EngineSpec, Sizes
from recap_fast.generate.torch_backend.memory import OVERHEAD_BYTES, plan_memory
from recap_fast.generate.torch_backend.sizes import read_tuning

CPU = device_name(torch.device("cpu"))


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
        self.joining = []

    @property
    def free_slots(self):
        return super().free_slots - len(self.joining)

    def submit(self, requests):
        self.joining += requests

    def step(self, *, more=False):
        most = self.options.prefill_images
        joining, self.joining = self.joining[:most], self.joining[most:]
        self._running |= {request.id: (request, request.max_new_tokens) for request in joining}
        self.statistics.images += len(joining)
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
    length = 23.4  # on average, of 24 at most
    assert rates[64, 4] == pytest.approx((64 / length) / (0.010 + 0.001 * 64 / length + 0.002), rel=0.02)
    assert rates[16, 4] == pytest.approx((16 / length) / (0.010 + 0.001 * 16 / length + 0.0005), rel=0.02)
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


def test_a_gpu_gets_full_waves_of_what_fits(engine_folder, simulated, monkeypatch):
    free = OVERHEAD_BYTES + (12 << 20)
    monkeypatch.setattr(tuning, "resolve_device", torch.device)
    monkeypatch.setattr(tuning, "device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=8))
    found = tune(engine_folder, "cuda", seconds=0.1, say=lambda line: None)
    assert [(t.num_slots, t.prefill_images) for t in found.trials if t.num_slots == 8][:1] == [(8, 4)]
    assert {t.prefill_images for t in found.trials} == set(tuning.GPU_IMAGES)
    spec = EngineSpec.load(engine_folder)
    for trial in found.trials:
        plan = plan_memory(spec, spec.slot_shape(5), sizes(trial.num_slots, trial.prefill_images))
        assert plan.total <= free
    assert 128 <= max(t.num_slots for t in found.trials) < 512
    assert read_tuning(engine_folder, "NVIDIA Test") is not None


def test_waves_are_full_where_tiles_come_out_even():
    # 8 images of 600 rows and 448 slots on an H200: 41 * 16 tiles of 132 are 4.97 waves; 128 rows more begin a sixth
    assert wave_share(5248, 4096, 132) == pytest.approx(41 * 16 / (5 * 132))
    assert wave_share(5376, 4096, 132) == pytest.approx(42 * 16 / (6 * 132))
    assert wave_share(5249, 4096, 132) < 0.85
    assert wave_share(1, 256, 1) == 1 / 128


def test_gpu_sizes_fill_the_waves():
    points = gpu_candidates(600, 4096, 132, most_slots=512)
    assert sizes(448, 8) in points
    assert [p.prefill_images for p in points] == [4, 5, 6, 8, 10, 12, 16]
    assert all(128 <= p.num_slots <= 512 for p in points)
    assert max(p.num_slots for p in gpu_candidates(600, 4096, 108, most_slots=200)) <= 200
    assert gpu_candidates(600, 4096, 132, most_slots=5) == [sizes(5, 4), sizes(5, 5)]
