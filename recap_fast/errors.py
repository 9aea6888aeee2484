"""The errors that recap-fast raises on purpose; each message says what was given and what to do about it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended; a process killed by signal n ends with 128 + n."""

    COMPLETE = 0
    FAILURE = 1
    """A shard or the engine failed."""
    USAGE = 2
    ERROR_RATE = 3
    """Complete, but more images failed than --max-error-rate."""
    GAP = 4
    """`verify` found a gap, or `replay` another caption."""
    DRAINED = 75
    """Stopped by a signal; the same command goes on from there."""


class RecapError(Exception):
    """Base of all errors below."""


class ConfigError(RecapError, ValueError):
    """A command, recipe, checkpoint, engine directory or output folder that cannot be used. Exit code 2."""


class NativeError(RecapError, ImportError):
    """The C++ core does not load, or does not fit the pyarrow that is installed."""


class InputError(RecapError):
    """Inputs that cannot be reached now, whatever the command says: a server that is down, a network. Exit code 1."""


class ShardError(RecapError):
    """A shard that cannot be read at all. It is recorded as failed and the run goes on."""


class StoppedError(RecapError):
    """The run is stopping and a shard was not opened to the end: it stays as if it had not been begun."""


class OutputGoneError(RecapError, OSError):
    """The output was removed, replaced, unmounted or out of reach while a run wrote to it. The run stops at once."""


class EngineError(RecapError, RuntimeError):
    """The engine broke: out of memory, a CUDA error. The run stops at once."""
