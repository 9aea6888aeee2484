"""Notices that the output folder was deleted, replaced or unmounted while a run writes to it."""

from recap_fast.errors import OutputGoneError
from recap_fast.write.output_folder import RUN_FILE, OutputFolder
from recap_fast.write.run_file import RunFile, read_run_file


class OutputWatch:
    """Looks at the run file, which is there as long as the folder is the one in which the run began."""

    def __init__(self, output: OutputFolder):
        self._output = output
        self._version = self._find()
        self._run = self._read()

    def check(self) -> None:
        """Raises OutputGoneError unless the folder is the same one, or has a run with the same settings and inputs."""
        version = self._find()
        if version == self._version:
            return
        run = self._read()
        if (run.fingerprint, run.root) != (self._run.fingerprint, self._run.root):
            raise self._gone("is now another folder, with another run")
        self._version = version  # other processes add their shards

    def _find(self) -> str:
        """The version of the run file."""
        try:
            file = self._output.store.stat(RUN_FILE)
        except OSError as error:
            if self._output.is_out_of_reach(error):
                raise
            raise self._gone(f"cannot be read ({error})") from error
        if file is None:
            raise self._gone(f"no longer has {RUN_FILE}")
        return file.version

    def _read(self) -> RunFile:
        run = read_run_file(self._output)
        if run is None:
            raise self._gone(f"no longer has {RUN_FILE}")
        return run

    def _gone(self, what: str) -> OutputGoneError:
        return OutputGoneError(
            f"--output {self._output.address} {what}: it was removed, replaced or unmounted while the run was writing "
            "to it. Rows that were not yet written are lost. Put it back, or start again with a new --output."
        )
