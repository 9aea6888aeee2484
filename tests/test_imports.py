"""Nothing heavy loads early (asked of a fresh interpreter), and no module imports itself or too many others."""

import graphlib
import json
import subprocess
import sys

import grimp
import pytest

HEAVY = (
    *("torch", "pyarrow", "transformers", "tokenizers", "safetensors", "nvidia.dali", "fsspec", "datasets", "duckdb"),
    *("PIL", "pandas", "hypothesis", "pytest", "obstore"),
)
MOST_IMPORTS = 12
"""Of our own modules, by one module: more of them than a head holds."""
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
    assert {m for m in modules if m.startswith("recap_fast")} == {"recap_fast", "recap_fast.cpus", "recap_fast.version"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["build-engine", "--help"], ["tune", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"import sys\nfrom recap_fast.cli.main import cli\ntry:\n cli({arguments!r})\nexcept SystemExit:\n pass"
    modules = imported(code)
    assert heavy(modules) == set()
    assert "numpy" not in modules


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("recap_fast.records, recap_fast.errors", (*HEAVY, *OURS)),
        ("recap_fast.shards.expand", ("torch", "pyarrow", "PIL", "fsspec", "aiohttp", "obstore")),
        ("recap_fast.shards.reader", ("torch", "pyarrow", "PIL", "fsspec", "aiohttp", "obstore")),
        ("recap_fast.decode.decoder", ("torch", "pyarrow", "PIL", "nvidia.dali")),
        ("recap_fast.decode.pillow", ("torch", "pyarrow", "nvidia.dali")),
        ("recap_fast.generate.engine", ("torch", "pyarrow", "PIL", "transformers")),
        ("recap_fast.write.shard_writer", ("torch", "PIL", "tokenizers")),
        ("recap_fast.pipeline.pipeline", ("torch", "PIL", "tokenizers", "nvidia.dali", "transformers")),
        ("recap_fast.launch.execute", ("torch", "PIL", "tokenizers", "nvidia.dali", "transformers")),
        ("recap_fast.launch.estimate", ("torch", "pyarrow", "PIL", "tokenizers", "nvidia.dali", "transformers")),
        ("recap_fast.write.verify, recap_fast.write.ledger", ("torch", "pyarrow", "PIL", "fsspec", "aiohttp")),
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


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module, all of ours that it imports, those within functions included."""
    graph = grimp.build_graph("recap_fast", cache_dir=None, exclude_type_checking_imports=True)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_module_imports_the_front_door(imports):
    doors = {module for module, imported in imports.items() if "recap_fast" in imported}
    assert doors <= {"recap_fast.arrow_core", "recap_fast.generate.ops.cpp", "recap_fast.generate.ops.cuda"}  # of C++


def test_no_module_imports_itself_by_way_of_others(imports):
    assert "recap_fast.generate.torch_backend.engine" in imports["recap_fast.generate.prepared"]  # within a function
    inside = {module: imported - {"recap_fast"} for module, imported in imports.items() if module != "recap_fast"}
    graphlib.TopologicalSorter(inside).prepare()  # raises CycleError with the circle


def test_no_module_imports_more_of_ours_than_a_head_holds(imports):
    assert {module: len(imported) for module, imported in imports.items() if len(imported) > MOST_IMPORTS} == {}
