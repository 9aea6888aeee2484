"""One part of the suite: `python -m gpu PART '{"device": ...}'`, with benchmarks/ on the module path."""

import importlib
import json
import sys
from pathlib import Path

from gpu.setting import Setting

if __name__ == "__main__":
    part, given = sys.argv[1], json.loads(sys.argv[2])
    setting = Setting(**{**given, "work": Path(given["work"])})
    importlib.import_module(f"gpu.{part}").run(setting).save()
