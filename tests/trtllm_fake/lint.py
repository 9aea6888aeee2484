"""Checks source against the contract table without running it: every name, call and keyword of tensorrt_llm is there.

It follows what it can see: names that an import, an assignment, a `with`, a `for`, an annotation or a call binds to a
symbol or to an object that a recorded call returns, attributes of `self`, and functions that return either. What it
cannot see (`**values`, `setattr`, what a method is called with) the fake checks where it runs.
"""

import ast
from collections.abc import Mapping

from trtllm_fake.contract import Contract
from trtllm_fake.source_checker import Checker, Knowledge


def lint(files: Mapping[str, str], contract: Contract) -> list[str]:
    """What is wrong with these sources, by path from the repository's root, as 'path:line: what'."""
    knowledge = Knowledge()
    findings: list[str] = []
    for _ in range(2):  # what one function says of `self` or returns is known to the others from the second time on
        findings = []
        for path, source in files.items():
            checker = Checker(path, contract, knowledge)
            checker.visit(ast.parse(source))
            findings += checker.findings
    return findings


def used_symbols(files: Mapping[str, str], contract: Contract) -> set[str]:
    """The symbols of the table that these sources name, to see that the lint does not look past them."""
    knowledge = Knowledge()
    for path, source in files.items():
        Checker(path, contract, knowledge).visit(ast.parse(source))
    return knowledge.used
