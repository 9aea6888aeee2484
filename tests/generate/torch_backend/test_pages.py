"""Hints to the kernel: taken where they can be, and harmless."""

import re
import sys
from pathlib import Path

import pytest
import torch

from recap_fast.generate.torch_backend.pages import HUGE_PAGE_BYTES, keep_freed_memory, use_huge_pages

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_large_blocks_come_from_the_heap() -> None:
    """glibc's own limit is 32 MB: above it each block is a mapping of its own, and goes back when it is freed."""
    keep_freed_memory()
    block = torch.empty(64 << 20, dtype=torch.uint8)
    heap = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    assert any(int(begin, 16) <= block.data_ptr() < int(end, 16) for begin, end in heap)
