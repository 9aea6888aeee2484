"""Hints to the kernel: taken where they can be, and harmless."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recap_fast.generate.torch_backend.pages import HUGE_PAGE_BYTES, use_huge_pages

LINUX = sys.platform == "linux" and Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()


def flags(address: int) -> set[str]:
    """What the kernel has noted of the mapping that an address lies in."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if area := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            found = int(area[1], 16) <= address < int(area[2], 16)
        elif found and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    return set()


@pytest.mark.skipif(not LINUX, reason="no transparent huge pages")
def test_the_kernel_notes_huge_pages() -> None:
    tensor = torch.empty(8 * HUGE_PAGE_BYTES, dtype=torch.uint8)
    assert use_huge_pages(tensor)
    assert "hg" in flags(tensor.data_ptr() + 4 * HUGE_PAGE_BYTES)


def test_what_holds_no_huge_page_is_left_alone() -> None:
    assert not use_huge_pages(torch.empty(1000))
    assert not use_huge_pages(torch.empty(0))


FREE_BYTES = """
import ctypes, torch
from recap_fast.generate.torch_backend.pages import keep_freed_memory

class Statistics(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefgh"] + [("free", ctypes.c_size_t), ("k", ctypes.c_size_t)]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Statistics
{prepare}
torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
print(mallinfo().free)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc, or one before 2.33")
def test_freed_blocks_are_kept_for_the_next() -> None:
    """A process of its own each: the setting cannot be undone, and other tests' blocks would lie between ours."""

    def free_bytes(prepare: str) -> int:
        script = FREE_BYTES.format(prepare=prepare)
        return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)

    assert free_bytes("") < 64 << 20 <= free_bytes("keep_freed_memory()")
