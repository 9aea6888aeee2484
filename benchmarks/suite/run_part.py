"""One part of the suite: `python -m suite.run_part PART '{"device": ...}'`, with benchmarks/ on the module path."""

import importlib
import json
import sys
from pathlib import Path

from suite.setting import Setting

if __name__ == "__main__":
    part, given = sys.argv[1], json.loads(sys.argv[2])
    setting = Setting(**{**given, "work": Path(given["work"])})
    importlib.import_module(f"suite.{part}").run(setting).save()
