"""The errors that recap-fast raises on purpose; each message says what was given and what to do about it."""


class RecapError(Exception):
    """Base of all errors below."""


class ConfigError(RecapError, ValueError):
    """A command, recipe, checkpoint, engine directory or output folder that cannot be used. Exit code 2."""


class NativeError(RecapError, ImportError):
    """The C++ core does not load, or does not fit the pyarrow that is installed."""


class ShardError(RecapError):
    """A shard that cannot be read at all. It is recorded as failed and the run goes on."""


class StoppedError(RecapError):
    """The run is stopping and a shard was not opened to the end: it stays as if it had not been begun."""


class EngineError(RecapError, RuntimeError):
    """The engine broke: out of memory, a CUDA error. The run stops at once."""
