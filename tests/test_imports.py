"""Nothing heavy loads early: what is imported is asked of a fresh interpreter."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "pyarrow", "transformers", "tokenizers", "safetensors", "nvidia.dali", "fsspec", "datasets", "duckdb"),
    *("PIL", "pandas", "hypothesis", "pytest"),
)
OURS = ("recap_fast._core", "recap_fast.launch.execute", "recap_fast.pipeline.pipeline")


def imported(code: str) -> set[str]:
    """The modules that there are after this code."""
    code += "\nimport sys, json; sys.stdout.write('@@' + json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.rpartition("@@")[2]))


def heavy(modules: set[str]) -> set[str]:
    return modules & {*HEAVY, *OURS}


def test_the_package_is_light():
    modules = imported("import recap_fast")
    assert heavy(modules) == set()
    assert {m for m in modules if m.startswith("recap_fast")} == {"recap_fast", "recap_fast.version"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["build-engine", "--help"], ["tune", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"import sys\nfrom recap_fast.cli.main import cli\ntry:\n cli({arguments!r})\nexcept SystemExit:\n pass"
    modules = imported(code)
    assert heavy(modules) == set()
    assert "numpy" not in modules


def test_records_and_errors_need_numpy_only():
    assert heavy(imported("import recap_fast.records, recap_fast.errors")) == set()


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("recap_fast.shards.expand", ("torch", "pyarrow", "PIL")),
        ("recap_fast.shards.reader", ("torch", "pyarrow", "PIL")),
        ("recap_fast.decode.decoder", ("torch", "pyarrow", "PIL", "nvidia.dali")),
        ("recap_fast.decode.pillow", ("torch", "pyarrow", "nvidia.dali")),
        ("recap_fast.generate.engine", ("torch", "pyarrow", "PIL", "transformers")),
        ("recap_fast.write.shard_writer", ("torch", "PIL", "tokenizers")),
        ("recap_fast.pipeline.pipeline", ("torch", "PIL", "tokenizers", "nvidia.dali", "transformers")),
        ("recap_fast.launch.execute", ("torch", "PIL", "tokenizers", "nvidia.dali", "transformers")),
        ("recap_fast.write.verify", ("torch", "PIL", "tokenizers")),
    ],
)
def test_a_stage_loads_what_it_uses_and_no_more(module, without):
    assert imported(f"import {module}") & set(without) == set()


def test_transformers_and_datasets_are_never_imported_by_the_package(tiny_engine):
    code = (
        "import recap_fast\nimport recap_fast.launch.execute\n"
        f"recap_fast.Captioner.open({str(tiny_engine)!r}, device='cpu', decoder='pillow')"
    )
    modules = imported(code)
    assert "torch" in modules
    assert modules & {"transformers", "datasets", "tokenizers", "nvidia.dali"} == set()
