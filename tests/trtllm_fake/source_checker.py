"""Follows what names stand for in a source file, as far as they come from tensorrt_llm; see lint.py."""

import ast
from dataclasses import dataclass, field

from trtllm_fake.contract import Contract

NAME = "tensorrt_llm"
BACKEND = "recap_fast/generate/tensorrt_backend/"
DOORS = (f"{BACKEND}trt_flow.py", f"{BACKEND}pytorch_flow.py")
"""The files that may import the library, and that are imported in functions only."""
DOOR_MODULES = tuple(door.removesuffix(".py").replace("/", ".") for door in DOORS)
Scope = dict[str, "Ref"]


@dataclass(frozen=True)
class Ref:
    """What an expression stands for: a symbol or module, a method of it, an object of it, or a list of those."""

    symbol: str
    kind: str = "symbol"
    method: str = ""


def typed(name: str) -> Ref | None:
    """An object of a type as the table writes it, None for Python's own types."""
    inner = name.removeprefix("list[").removesuffix("]")
    if not inner.startswith(NAME):
        return None
    return Ref(inner, "list" if inner != name else "object")


@dataclass
class Knowledge:
    """What is known beyond one function."""

    attributes: dict[tuple[str, str], Ref] = field(default_factory=dict)
    """Of `self`, by file and name."""
    arguments: dict[tuple[str, str, int], Ref] = field(default_factory=dict)
    """Of functions, by file, function and place: what they were called with."""
    returns: dict[str, Ref] = field(default_factory=dict)
    """Of the backend's functions, by name."""
    used: set[str] = field(default_factory=set)
    """Symbols that were named."""


class Checker(ast.NodeVisitor):
    """Walks one file. `findings` holds what it found."""

    def __init__(self, path: str, contract: Contract, knowledge: Knowledge):
        self.findings: list[str] = []
        self._path, self._contract, self._knowledge = path, contract, knowledge
        self._modules = contract.modules()
        self._scopes: list[Scope] = [{}]
        self._functions: list[str] = []
        self._is_typing = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_door(node, alias.name)
            if alias.name.split(".")[0] == NAME:
                self._check_import(node, alias.name)
                self._scopes[-1][alias.asname or NAME] = Ref(alias.name if alias.asname else NAME)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            self._check_door(node, module, f"{module}.{alias.name}")
        if node.level or module.split(".")[0] != NAME:
            return
        self._check_import(node, module)
        for alias in node.names:
            if ref := self._member(node, Ref(module), alias.name):
                self._scopes[-1][alias.asname or alias.name] = ref

    def visit_If(self, node: ast.If) -> None:
        before = self._is_typing
        self._is_typing |= isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in node.body:
            self.visit(child)
        self._is_typing = before
        for child in (node.test, *node.orelse):
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for expression in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self._evaluate(expression)
        self._functions.append(node.name)
        self._scopes.append({})
        for i, argument in enumerate((*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)):
            called_with = self._knowledge.arguments.get((self._path, node.name, i))
            self._bind(argument.arg, self._annotated(argument.annotation) or called_with)
        for child in node.body:
            self.visit(child)
        self._scopes.pop()
        self._functions.pop()
        if returned := self._annotated(node.returns):
            self._knowledge.returns[node.name] = returned

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and (ref := self._evaluate(node.value)) and self._functions:
            self._knowledge.returns[self._functions[-1]] = ref

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for each, value in zip(target.elts, node.value.elts, strict=False):
                    self._assign(each, self._evaluate(value))
            else:
                self._assign(target, self._evaluate(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        ref = self._evaluate(node.value) if node.value else None
        self._assign(node.target, ref or self._annotated(node.annotation))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, self._evaluate(node.value))

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            ref = self._evaluate(item.context_expr)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, ref)
        for child in node.body:
            self.visit(child)

    visit_AsyncWith = visit_With  # noqa: N815

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        for child in (*node.body, *node.orelse):
            self.visit(child)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._loop(node.target, node.iter)
        for child in node.ifs:
            self.visit(child)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            for generator in node.generators:
                self.visit(generator)
        if isinstance(node, ast.expr):
            self._evaluate(node)
        else:
            super().generic_visit(node)

    def _evaluate(self, node: ast.expr) -> Ref | None:
        """What an expression stands for; checks all that is in it."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self._scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            base = self._evaluate(node.value)
            if base is None and isinstance(node.value, ast.Name) and node.value.id == "self":
                return self._knowledge.attributes.get((self._path, node.attr))
            return self._member(node, base, node.attr) if base else None
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Subscript):
            base, _ = self._evaluate(node.value), self.visit(node.slice)
            return Ref(base.symbol, "object") if base and base.kind == "list" else None
        super().generic_visit(node)
        return None

    def _call(self, node: ast.Call) -> Ref | None:
        called = self._evaluate(node.func)
        for i, argument in enumerate((*node.args, *(keyword.value for keyword in node.keywords))):
            if (ref := self._evaluate(argument)) and isinstance(node.func, ast.Name) and i < len(node.args):
                self._knowledge.arguments[self._path, node.func.id, i] = ref
        if called is None:
            return self._imported(node) or self._returned(node.func)
        if called.kind == "symbol" and self._contract.entry(called.symbol)["kind"] not in ("enum", "value"):
            self._check_arguments(node, called)
            entry = self._contract.entry(called.symbol)
            is_function = entry["kind"] == "function"
            return typed(entry.get("returns", "")) if is_function else Ref(called.symbol, "object")
        if called.kind == "method":
            self._check_arguments(node, called)
            return typed(self._contract.entry(called.symbol)["methods"][called.method].get("returns", ""))
        return None

    def _imported(self, node: ast.Call) -> Ref | None:
        """importlib.import_module("tensorrt_llm...") is an import too."""
        name = ast.unparse(node.func).rpartition(".")[2]
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if name not in ("import_module", "__import__") or str(first).split(".")[0] != NAME:
            return None
        self._check_import(node, str(first))
        return Ref(str(first))

    def _returned(self, function: ast.expr) -> Ref | None:
        name = ast.unparse(function).rpartition(".")[2]
        return self._knowledge.returns.get(name) if self._path.startswith(BACKEND) else None

    def _member(self, node: ast.AST, base: Ref, name: str) -> Ref | None:
        """An attribute of what is known. Notes it where the table has none of that name."""
        if base.kind in ("list", "method") or name.startswith("__"):
            return None
        full = f"{base.symbol}.{name}"
        if base.kind == "symbol" and (full in self._contract.entries or full in self._modules):
            symbol = self._contract.resolve(full) if full in self._contract.entries else full
            self._knowledge.used.add(symbol)
            return Ref(symbol)
        entry = self._contract.entry(base.symbol) if base.symbol in self._contract.entries else {}
        if name in entry.get("methods", {}):
            return Ref(base.symbol, "method", name)
        if name in entry.get("members", ()):
            return Ref(base.symbol, "object")
        if base.kind == "object" and name in (
            *entry.get("read", ()),
            *entry.get("write", ()),
            *entry.get("fields", ()),
        ):
            return typed(entry.get("types", {}).get(name, ""))
        if not (base.kind == "object" and entry.get("kind") in ("base", "exception", "enum")):
            self._note(node, f"{full} is not in the contract table")
        return None

    def _assign(self, target: ast.expr, ref: Ref | None) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, ref)
        elif isinstance(target, ast.Attribute):
            base = self._evaluate(target.value)
            if base is not None and base.kind == "object":
                entry = self._contract.entry(base.symbol)
                writable = (*entry.get("write", ()), *entry.get("fields", ()))
                if entry["kind"] != "base" and target.attr not in writable:
                    self._note(target, f"{base.symbol}.{target.attr} is set, and the table says nothing of that")
            elif ref is not None:
                self._knowledge.attributes[self._path, target.attr] = ref
        else:
            self.visit(target)

    def _bind(self, name: str, ref: Ref | None) -> None:
        self._scopes[-1].pop(name, None)
        if ref is not None:
            self._scopes[-1][name] = ref

    def _loop(self, target: ast.expr, values: ast.expr) -> None:
        ref = self._evaluate(values)
        self._assign(target, Ref(ref.symbol, "object") if ref and ref.kind == "list" else None)

    def _annotated(self, annotation: ast.expr | None) -> Ref | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        ref = self._evaluate(annotation) if isinstance(annotation, (ast.Name, ast.Attribute)) else None
        return Ref(ref.symbol, "object") if ref and ref.symbol in self._contract.entries else None

    def _check_import(self, node: ast.AST, module: str) -> None:
        if self._path not in DOORS:
            self._note(node, f"{NAME} is imported outside {' and '.join(DOORS)}")
        if module not in self._modules:
            self._note(node, f"{module} is not in the contract table")

    def _check_door(self, node: ast.AST, *modules: str) -> None:
        for module in modules:
            if module in DOOR_MODULES and not self._functions and not self._is_typing:
                self._note(node, f"{module} is imported as the module loads, and {NAME} with it: do it in a function")

    def _check_arguments(self, node: ast.Call, called: Ref) -> None:
        names = [keyword.arg for keyword in node.keywords if keyword.arg]
        is_open = len(names) < len(node.keywords) or any(isinstance(a, ast.Starred) for a in node.args)
        positional = [a for a in node.args if not isinstance(a, ast.Starred)]
        reasons = []
        for signature in self._contract.signatures(called.symbol, called.method or None):
            recorded = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
            strict = signature.replace(parameters=recorded)
            bind = strict.bind_partial if is_open else strict.bind
            try:
                bind(*positional, **dict.fromkeys(names))
            except TypeError as error:
                reasons.append(str(error))
            else:
                return
        what = f"{called.symbol}.{called.method}" if called.method else called.symbol
        self._note(node, f"{what}: {'; or '.join(reasons)}")

    def _note(self, node: ast.AST, text: str) -> None:
        self.findings.append(f"{self._path}:{getattr(node, 'lineno', 0)}: {text}")
