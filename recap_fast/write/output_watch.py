"""Notices that the output folder was deleted, replaced or unmounted while a run writes to it."""

from recap_fast.errors import OutputGoneError
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile, read_run_file


class OutputWatch:
    """Looks for the run file, which is there as long as the folder is the one in which the run began."""

    def __init__(self, output: OutputFolder):
        self._output = output
        self._run = self._read()
        self._place = self._find()

    def check(self) -> None:
        """Raises OutputGoneError unless the folder is the same one, or has a run with the same settings and inputs."""
        place = self._find()
        if place == self._place:
            return
        run = self._read()
        if (run.fingerprint, run.root) != (self._run.fingerprint, self._run.root):
            raise self._gone("is now another folder, with another run")
        self._place = place  # some network file systems renumber their folders

    def _find(self) -> tuple[int, int]:
        """Device and inode of the folder."""
        try:
            self._output.run_file.stat()
            status = self._output.root.stat()
        except OSError as error:
            raise self._gone(f"no longer has {self._output.run_file.name}") from error
        return status.st_dev, status.st_ino

    def _read(self) -> RunFile:
        run = read_run_file(self._output)
        if run is None:
            raise self._gone(f"no longer has {self._output.run_file.name}")
        return run

    def _gone(self, what: str) -> OutputGoneError:
        return OutputGoneError(
            f"--output {self._output.root} {what}: it was removed, replaced or unmounted while the run was writing to "
            "it. Rows that were not yet written are lost. Put it back, or start again with a new --output."
        )
