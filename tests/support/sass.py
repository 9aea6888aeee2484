"""Machine code of NVIDIA GPUs: what nvcc makes of a CUDA source, as cuobjdump shows it."""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc")


def _find_cuobjdump() -> str | None:
    """On the path, beside nvcc, or in Triton's package."""
    triton = importlib.util.find_spec("triton")
    folders = [str(Path(NVCC).resolve().parent)] if NVCC else []
    if triton is not None and triton.origin is not None:
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(folders))


CUOBJDUMP = _find_cuobjdump()


@dataclass
class Kernel:
    """A kernel's resources, and its instructions without their predicates, by address."""

    registers: int
    stack: int
    local: int
    shared: int
    code: dict[int, str] = field(default_factory=dict)

    def loop(self, instruction: str) -> list[str]:
        """The innermost loop with this instruction."""
        loops = []
        for end, text in self.code.items():
            branch = re.match(r"BRA.* (0x[0-9a-f]+)$", text)
            if branch and int(branch[1], 16) < end:
                body = [text for address, text in self.code.items() if int(branch[1], 16) <= address <= end]
                loops += [body] * any(text.startswith(instruction) for text in body)
        return min(loops, key=len)


def compile_kernels(source: str, capability: int, folder: Path) -> dict[str, Kernel]:
    """Those of a file below csrc/, by their mangled names."""
    assert NVCC is not None
    assert CUOBJDUMP is not None
    cubin = folder / f"{Path(source).stem}.{capability}.cubin"
    options = ["-std=c++20", "-O3", f"-I{CSRC}", f"-arch=sm_{capability}", "-cubin"]
    subprocess.run([NVCC, *options, "-o", cubin, CSRC / source], check=True)
    kernels = {}
    for name, usage in re.findall(r"Function (\S+):\n(.*)", _dump("-res-usage", cubin)):
        used = {key: int(number) for key, number in re.findall(r"(\w+):(\d+)", usage)}
        kernels[name] = Kernel(used["REG"], used["STACK"], used["LOCAL"], used["SHARED"])
    for part in _dump("-sass", cubin).split("Function : ")[1:]:
        lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@\S+\s+)?(.*?)\s*;", part, re.MULTILINE)
        kernels[part.split()[0]].code.update((int(address, 16), text) for address, text in lines)
    return kernels


def _dump(option: str, cubin: Path) -> str:
    """cuobjdump runs nvdisasm, which lies beside it."""
    assert CUOBJDUMP is not None
    path = os.pathsep.join([str(Path(CUOBJDUMP).parent), os.environ["PATH"]])
    command = [CUOBJDUMP, option, cubin]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}).stdout
