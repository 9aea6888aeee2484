"""What is done to the workers of a cluster: Ray calls `setup` in each as it begins, by way of --runtime-env."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

STRETCH_ROWS = 8


def environment(**changes: object) -> Mapping[str, object]:
    """A runtime environment with these changes; see `setup`."""
    variables = {"OMP_NUM_THREADS": "1", **{name: str(value) for name, value in changes.items()}}
    return {"worker_process_setup_hook": "support.worker_hook.setup", "env_vars": variables}


def setup() -> None:
    """Changes the process that it is called in, as its environment says.

    Before step number GATE_STEP of the engine it makes the file `GATE.<process id>` and waits for the file GATE. STEP_S
    is added to each step. Opening the shard DEADLY_SHARD ends the process. Decoding the image whose bytes are KILLER in
    hex does, but not with Pillow alone.
    """
    from recap_fast.decode.pillow import PillowDecoder
    from recap_fast.generate.torch_backend.engine import TorchEngine
    from recap_fast.pipeline.pipeline import Pipeline
    from recap_fast.write import shard_writer
    from recap_fast.write.assembly import Assembly

    shard_writer.STRETCH_ROWS = STRETCH_ROWS
    step, decode, begin, drain = TorchEngine.step, PillowDecoder.decode, Assembly.begin, Pipeline.drain
    gate, gate_step = os.environ.get("GATE", ""), int(os.environ.get("GATE_STEP", "0"))
    killer, deadly_shard = bytes.fromhex(os.environ.get("KILLER", "")), os.environ.get("DEADLY_SHARD")
    num_steps = 0

    def gated_step(self, **told):
        nonlocal num_steps
        num_steps += 1
        if num_steps == gate_step:
            Path(f"{gate}.{os.getpid()}").touch()
            while not Path(gate).exists():
                time.sleep(0.01)
        time.sleep(float(os.environ.get("STEP_S", "0")))
        return step(self, **told)

    def deadly_decode(self, images, **told):
        if killer and killer in images and not told.get("only_pillow"):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, images, **told)

    def deadly_begin(self, shard, identity):
        if shard.name == deadly_shard:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, shard, identity)

    def told_drain(self, seconds):
        drain(self, seconds)
        if gate:
            Path(gate).with_name(f"drained.{os.getpid()}").touch()

    TorchEngine.step, PillowDecoder.decode, Assembly.begin = gated_step, deadly_decode, deadly_begin
    Pipeline.drain = told_drain
