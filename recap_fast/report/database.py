"""The door to DuckDB: one database in memory that spills to a folder, and the extra that a report needs."""

import importlib.util
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError

MEMORY_LIMIT, THREADS = "256MB", 2


def check_extra() -> None:
    """Raises ConfigError if a library that a report needs is not installed."""
    missing = [name for name in ("duckdb", "jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"A report needs {' and '.join(missing)}: install the extra with pip install 'recap-fast[report]'."
        )


def connect(folder: Path) -> Any:
    """A new database in memory; what does not fit into `MEMORY_LIMIT` goes to the folder."""
    import duckdb

    settings = {"memory_limit": MEMORY_LIMIT, "threads": THREADS, "temp_directory": str(folder)}
    return duckdb.connect(":memory:", config={**settings, "preserve_insertion_order": False})
