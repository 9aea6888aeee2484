"""Each folder of benchmarks is a command, from wherever it is called."""

import subprocess
import sys
from pathlib import Path

import pytest

import inputs

BENCHMARKS = Path(inputs.__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("contest", "--peers"),
        ("suite", "--only"),
        ("inputs", "--dtype"),
        ("launches", "--tokens"),
        ("cluster", "--num-workers"),
    ],
)
def test_a_folder_is_a_command(name, option, tmp_path):
    command = [sys.executable, str(BENCHMARKS / name), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert option in done.stdout


def test_a_random_checkpoint_is_made(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "inputs"), "tiny", str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tiny: 0.3 M parameters" in done.stderr
    assert {file.name for file in (tmp_path / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
