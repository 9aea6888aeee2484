"""FP8 weights for flow pytorch: ModelOpt calibrates a plain Llama and exports a folder that TensorRT-LLM loads.

Read from nvidia-modelopt 0.37, the version that TensorRT-LLM 1.2 asks for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recap_fast.errors import ConfigError


def export_fp8(llama: Path, output: Path, rows: Sequence[NDArray[np.int32]], device: torch.device) -> None:
    """Runs the token ids of each row through the model, and writes config.json, hf_quant_config.json and weights.

    Raises ConfigError where ModelOpt or transformers is not installed.
    """
    try:
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(
            f"FP8 for TensorRT-LLM needs nvidia-modelopt and transformers ({error}): NVIDIA's container has both."
        ) from error
    model = AutoModelForCausalLM.from_pretrained(llama, torch_dtype=torch.bfloat16).to(device).eval()

    def calibrate(quantized: Any) -> None:
        for row in rows:
            quantized(input_ids=torch.from_numpy(row).to(device, torch.int64)[None], use_cache=False)

    with torch.inference_mode():
        mtq.quantize(model, mtq.FP8_DEFAULT_CFG, calibrate)
        export_hf_checkpoint(model, export_dir=output)
