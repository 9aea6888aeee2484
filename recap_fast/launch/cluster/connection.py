"""Connects to a Ray cluster, or starts one on this machine, and keeps Ray's hands off signals and the terminal."""

import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError, EngineError
from recap_fast.launch.cluster.rays import RayCluster, first_line

CONNECT_S = 10.0
"""A cluster's head has so long to answer."""
_INIT_ERRORS = (ConnectionError, OSError, RuntimeError, ValueError)
"""Of `ray.init`, where no cluster is to be had."""


@contextlib.contextmanager
def connect(address: str, runtime_env: Path | None) -> Iterator[RayCluster]:
    """A connection to the cluster at this address; to one that is started here and ends with it, where it is 'local'.

    Raises ConfigError where Ray is not installed, or there is no cluster, and EngineError where it goes meanwhile.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError(f"--ray needs Ray ({error}): pip install 'recap-fast[ray]'.") from error
    environment = _read_environment(runtime_env)
    _check_address(address)
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    connection = _Connection(
        lambda: ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == "local" else None,
            runtime_env=environment,
        )
    )
    with _quiet(ray):
        try:
            connection.open()
            yield RayCluster(ray)
        except _INIT_ERRORS as error:
            if connection.is_open:
                raise
            raise _no_cluster(address, error) from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray cluster cannot be used any more: {first_line(error)}") from error
        finally:
            if connection.is_open:
                ray.shutdown()
            connection.may_end.set()


def _check_address(address: str) -> None:
    """Raises ConfigError where nobody listens: Ray itself would try that for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: BaseException) -> ConfigError:
    return ConfigError(
        f"--ray {public_url(address)}: no cluster answers there ({first_line(error)}). Start one with `ray start "
        "--head`, give the HOST:PORT that it says, or --ray local."
    )


class _Connection(threading.Thread):
    """Connects in a thread of its own, so that the handlers of signals can be kept meanwhile, and run elsewhere.

    Ray's C++ has SIGTERM end the process, and its Python has handlers of its own, whatever there was. The thread lives
    as long as the connection: the processes that Ray has started in it would die with it.
    """

    def __init__(self, connect: Callable[[], object]):
        super().__init__(name="recap-ray", daemon=True)
        self._connect = connect
        self._error: BaseException | None = None
        self._is_over = threading.Event()
        self.is_open = False
        self.may_end = threading.Event()

    def open(self) -> None:
        """Raises what `connect` raises, and what the handler of a signal does."""
        self.start()
        is_main = threading.current_thread() is threading.main_thread()
        handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT) if is_main}
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(0.001)
            for each, handler in handlers.items():
                signal.signal(each, handler)
        if self._error is not None:
            raise self._error
        self.is_open = True

    def run(self) -> None:
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001 - `open` raises it
            self._error = error
        self._is_over.set()
        self.may_end.wait()


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keeps what Ray prints of dead workers and nodes off the terminal: the run says that, too.

    There is no option for it. Where another version has it elsewhere, it is printed.
    """
    name, module = "print_to_stdstream", ray._private.worker
    printer: Callable[..., None] | None = getattr(module, name, None)
    if printer is not None:
        setattr(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        if printer is not None:
            setattr(module, name, printer)


def _read_environment(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--runtime-env {path} cannot be read: {error}. Give a file with a JSON object.") from error
    if not isinstance(content, dict):
        raise ConfigError(f'--runtime-env {path}: give a JSON object, such as {{"env_vars": {{"NAME": "value"}}}}.')
    return content
