"""TensorRT-LLM as recap-fast's other backend: the same run, from tars to Parquet files, with an engine of its own.

Settings: those of recap_fast.py.
"""

from contest.peers.protocol import serve
from contest.peers.recap_fast import RecapFast


class TensorRTLLM(RecapFast):
    """See `protocol.Contestant`."""

    libraries = ("tensorrt_llm", "torch", "pillow", "pyarrow")
    backend = "tensorrt-llm"


if __name__ == "__main__":
    serve(TensorRTLLM)
