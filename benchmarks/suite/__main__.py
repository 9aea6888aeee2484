"""`python benchmarks/suite`: see command.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # not this folder: its modules are found by way of their package; recap_fast may not be installed
    sys.path[:1] = [str(folder) for folder in Path(__file__).parents[1:3]]
    from suite.command import main

    sys.exit(main())
