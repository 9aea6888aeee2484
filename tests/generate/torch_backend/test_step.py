"""Which implementation of tower and decoder an engine gets."""

import dataclasses

import pytest
import torch
from support import exact_model

from inputs.shapes import SHAPES, llava_llama3_8b
from recap_fast.generate.layout import plan_weights
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.cpp_model import CppLlama, CppTower
from recap_fast.generate.torch_backend.llama import Llama
from recap_fast.generate.vision.tower import VisionTower


@pytest.mark.parametrize(
    ("precision", "kv_dtype", "whole"),
    [("float32", torch.float32, True), ("float32", torch.float8_e4m3fn, False), ("bfloat16", torch.bfloat16, False)],
)
def test_what_is_not_float32_throughout_stays_in_python(precision: str, kv_dtype: torch.dtype, whole: bool) -> None:
    text = dataclasses.replace(SHAPES["tiny"].text, qkv_bias=True, qk_norm=True)
    spec = llava_llama3_8b(precision=precision, vision=SHAPES["tiny"].vision, text=text)
    weights = exact_model.random_weights(plan_weights(spec.vision, spec.text), 0)
    weights = {name: weight.to(getattr(torch, precision)) for name, weight in weights.items()}
    tower, llama = step.make_model(spec, weights, 60, kv_dtype)
    assert (type(tower), type(llama)) == ((CppTower, CppLlama) if whole else (VisionTower, Llama))
