"""Weights are those that were built: any flipped bit, and any other file, is refused with the tensor's name."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.weight_files import change_weights, renew_checksums, with_nan

from inputs import checkpoints
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate.layout import CODES, engine_tensors
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.vision import loading
from recap_fast.generate.vision.loading import load_weights

CPU = torch.device("cpu")
PRECISIONS = ["float32", "bfloat16", "float16", "fp8", "int8"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An engine directory of each precision."""
    folder = tmp_path_factory.mktemp("built")
    checkpoints.make_checkpoint(folder / "checkpoint")
    for precision in PRECISIONS:
        build_engine("llava", folder / "checkpoint", folder / precision, precision=precision)
    return folder


@pytest.fixture(params=PRECISIONS)
def engine(request, built, tmp_path):
    """A copy of one of them."""
    return shutil.copytree(built / request.param, tmp_path / "engine")


def load(folder, **options):
    return load_weights(folder / WEIGHTS_FILE, EngineSpec.load(folder), CPU, **options)


def test_the_plan_is_what_the_file_has(engine):
    found = load_file(engine / WEIGHTS_FILE)
    spec = EngineSpec.load(engine)
    assert {t.name: (t.dtype, t.shape) for t in engine_tensors(spec)} == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()
    }
    assert spec.checksums.keys() == found.keys()
    assert set(load(engine)) >= found.keys()


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), precision=st.sampled_from(PRECISIONS))
def test_any_flipped_bit_is_found(built, tmp_path_factory, place, bit, precision):
    content = bytearray((built / precision / WEIGHTS_FILE).read_bytes())
    header = int.from_bytes(content[:8], "little")
    start = 8 + header + place % (len(content) - 8 - header)
    content[start] ^= 1 << bit
    tables = json.loads(content[8 : 8 + header])
    (name,) = (n for n, t in tables.items() if t["data_offsets"][0] <= start - 8 - header < t["data_offsets"][1])
    path = tmp_path_factory.mktemp("flipped") / WEIGHTS_FILE
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"the tensor {name} is damaged: its checksum is"):
        load_weights(path, EngineSpec.load(built / precision), CPU)
    load_weights(path, EngineSpec.load(built / precision), CPU, verify=False)


@pytest.mark.parametrize("chunk_bytes", [4096, 1 << 20])
def test_numbers_that_are_not_finite_are_found_behind_right_checksums(engine, chunk_bytes, monkeypatch):
    monkeypatch.setattr(loading, "CHUNK_BYTES", chunk_bytes)
    whole = load_file(engine / WEIGHTS_FILE)
    rng = np.random.default_rng(0)
    for name, tensor in whole.items():
        if tensor.dtype == torch.int8:
            continue
        change_weights(engine, **{name: with_nan(tensor, int(rng.integers(10**6)))})
        renew_checksums(engine)
        with pytest.raises(ConfigError, match=f"the tensor {name} has numbers that are not finite"):
            load(engine)
        change_weights(engine, **{name: tensor})


@pytest.mark.parametrize("dtype", [d for d in CODES if d in loading.LEAST_NOT_FINITE])
def test_finite_numbers_are_told_by_their_bits(dtype):
    whole = 1 << 8 * dtype.itemsize
    if dtype.itemsize < 4:
        bits = np.arange(whole).astype(f"u{dtype.itemsize}")
    else:
        edges = (0, 1, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_0000, 0x7FFF_FFFF)
        bits = np.array([edge | sign for edge in edges for sign in (0, 1 << 31)], np.uint32)
    for number in bits:
        data = np.array([number])
        expected = bool(torch.from_numpy(data).view(dtype).float().isfinite())
        assert loading._is_finite(data.view(np.uint8), dtype) == expected, hex(number)
        beside = np.array([0, number, bits[-1] >> 2], bits.dtype)
        assert loading._is_finite(beside.view(np.uint8), dtype) == expected, hex(number)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text__norm__weight": None}, "lacks the tensor text.norm.weight. Copy the engine directory again, or"),
        ({"text__lora": torch.zeros(1)}, "has the tensor text.lora, which no engine of these shapes has"),
        (
            {"text__norm__weight": torch.zeros(63)},
            r"the tensor text.norm.weight is F32 \[63\], and by engine.json F32 \[64\]",
        ),
        (
            {"text__norm__weight": torch.zeros(64, dtype=torch.bfloat16)},
            r"the tensor text.norm.weight is BF16 \[64\], and by engine.json F32 \[64\]",
        ),
        ({"text__norm__weight": torch.zeros(64, dtype=torch.int64)}, r"is I64 \[64\], and by engine.json F32"),
    ],
)
def test_another_file_is_refused(built, tmp_path, changed, message, verify):
    folder = shutil.copytree(built / "float32", tmp_path / "engine")
    change_weights(folder, **changed)
    with pytest.raises(ConfigError, match=message):
        load(folder, verify=verify)


def test_a_file_that_is_cut_or_none_is_refused(built, tmp_path):
    folder = shutil.copytree(built / "float32", tmp_path / "engine")
    whole = (folder / WEIGHTS_FILE).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:100], whole[:7], b"", b"\xff" * 100, whole + b"\0"):
        (folder / WEIGHTS_FILE).write_bytes(content)
        with pytest.raises(ConfigError, match=r"weights.safetensors cannot be read .*: build the engine again"):
            load(folder)


def test_weights_that_may_not_be_read_say_so(built, tmp_path, monkeypatch):
    folder = shutil.copytree(built / "float32", tmp_path / "engine")
    spec = EngineSpec.load(folder)

    def deny(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    def find_nothing(path, *arguments, **options):  # as safetensors says of a file that may not be read
        raise FileNotFoundError(f"No such file or directory: {path}")

    monkeypatch.setattr(loading, "safe_open", find_nothing)
    with pytest.raises(ConfigError, match=r"cannot be read .No such file or directory: .*: build the engine again"):
        load_weights(folder / WEIGHTS_FILE, spec, CPU)
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(ConfigError, match=r"weights.safetensors cannot be read: permission denied\."):
        load_weights(folder / WEIGHTS_FILE, spec, CPU)


def test_an_engine_of_before_checksums_opens_with_a_notice(built, tmp_path, caplog):
    folder = shutil.copytree(built / "float32", tmp_path / "engine")
    assert load(folder)
    assert not caplog.records
    dataclasses.replace(EngineSpec.load(folder), checksums={}).save(folder)
    assert load(folder)
    assert "was built without checksums, so it is not verified" in caplog.text
    dataclasses.replace(EngineSpec.load(folder), checksums={"text.norm.weight": "0"}).save(folder)
    with pytest.raises(ConfigError, match=r"is damaged: its checksum is .*, by engine.json 'none'"):
        load(folder)
