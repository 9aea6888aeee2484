"""`python benchmarks/cluster`: see command.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its modules are found by way of their package
    from cluster.command import main

    sys.exit(main())
