"""The stubs of the C++ modules against the modules: the same names, arguments and defaults."""

import ast
from pathlib import Path
from types import ModuleType

import pytest

from recap_fast.arrow_core import core
from recap_fast.generate.ops import cuda
from recap_fast.generate.ops.cpp import kernels

INHERITED = {*dir(object), "__module__", "__dict__", "__weakref__", "_pybind11_conduit_v1_"}


def stub(module: ModuleType) -> list[ast.stmt]:
    """What recap_fast/<module>.pyi says."""
    file = Path(__file__).parents[1] / "recap_fast" / f"{module.__name__.rpartition('.')[2]}.pyi"
    return ast.parse(file.read_text(encoding="utf-8")).body


def arguments(function: ast.FunctionDef) -> dict[str, str | None]:
    """Each argument with its default, and '*' where those by keyword begin."""
    spec = function.args
    missing = [None] * (len(spec.args) - len(spec.defaults))
    defaults = [*missing, *spec.defaults]
    result = {a.arg: d and ast.unparse(d) for a, d in zip(spec.args, defaults, strict=True)}
    if spec.kwonlyargs:
        result["*"] = None
    return result | {a.arg: d and ast.unparse(d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)}


def bound(function: object) -> ast.FunctionDef:
    """The signature that pybind11 writes into a docstring."""
    (parsed,) = ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body
    assert isinstance(parsed, ast.FunctionDef)
    return parsed


def names(body: list[ast.stmt]) -> set[str]:
    """The public names of a stub, and what helps its types left out."""
    found = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found |= {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {name for name in found if not name.startswith("_") or name.startswith("__")}


def compare_class(node: ast.ClassDef, bound_class: type) -> int:
    """The number of its methods, all of which are as the stub says; nothing can be derived from it."""
    assert [ast.unparse(d) for d in node.decorator_list] == ["final"]
    assert not bound_class.__flags__ & (1 << 10), f"{node.name} can be a base class"
    members = vars(bound_class)
    assert {name for name in members if name not in INHERITED or name == "__init__"} == names(node.body)
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
    for method in methods:
        if isinstance(members[method.name], property):
            assert [ast.unparse(d) for d in method.decorator_list] == ["property"], method.name
        else:
            assert arguments(method) == arguments(bound(members[method.name])), (node.name, method.name)
    return len(methods)


NO_CUDA = pytest.mark.skipif(cuda.kernels is None, reason="recap_fast._cuda_ops was not built: there was no nvcc")


@pytest.mark.parametrize(
    ("module", "num_functions"),
    [(core, 12), (kernels, 15), pytest.param(cuda.kernels, 1, marks=NO_CUDA)],
    ids=["_core", "_cpu_ops", "_cuda_ops"],
)
def test_names_arguments_and_defaults_are_those_of_the_stub(module: ModuleType, num_functions: int):
    body, compared = stub(module), 0
    assert {name for name in vars(module) if not name.startswith("_")} == names(body)
    for node in body:
        if isinstance(node, ast.FunctionDef):
            assert arguments(node) == arguments(bound(getattr(module, node.name))), node.name
            compared += 1
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            compared += compare_class(node, getattr(module, node.name))
    assert compared == num_functions
