"""The cards of this machine, and a folder with room for a model."""

import shutil
import subprocess
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
NVIDIA_SMI = "name,driver_version,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,memory.total"


def describe_card() -> str:
    """Name, driver, power limit and clocks of the cards, as nvidia-smi has them."""
    command = ["nvidia-smi", f"--query-gpu={NVIDIA_SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "no nvidia-smi"
    return done.stdout.strip()


def make_work_folder(num_bytes: int) -> Path:
    """A temporary folder with room for so much, in memory where that is large; 0 for what is small anyway."""
    roomy = num_bytes and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > num_bytes
    return Path(tempfile.mkdtemp(prefix="recap-bench-", dir=SHARED_MEMORY if roomy else None))
