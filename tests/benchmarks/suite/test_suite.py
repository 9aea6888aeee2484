"""benchmarks/suite: every part runs on the CPU at the tiny size and sees what is wrong; failures stay alone."""

import dataclasses
import json
import time
import types

import numpy as np
import pytest
import torch
from support.guard import GUARD_S

from inputs import oracle
from recap_fast.bench import roofline
from recap_fast.bench.roofline import Rates
from recap_fast.generate.ops import plain
from recap_fast.generate.spec import EngineSpec
from suite import agreement, command, demo, end_to_end, gemm, joycaption, loader, model, ops, parity, several, step
from suite.kernels import kind_of
from suite.setting import Findings, Setting


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(device="cpu", size="tiny", work=tmp_path_factory.mktemp("suite"))


def verdicts(found):
    return {line.what: line.met for line in found.lines}


def test_the_made_up_engine_has_the_prompt_of_llama_3(setting):
    made = model.make(setting, "bfloat16")
    prefix_ids, text_ids = made.prompts.prefix_ids.tolist(), made.prompts.text_ids({})[0]
    assert (len(prefix_ids), len(text_ids)) == (5, 22)  # as with Llama 3's own vocabulary
    assert made.spec.text.vocab_size == max(*prefix_ids, *text_ids) + 3


def test_eight_bits_are_those_of_the_bfloat16_engine(setting):
    plain_weights, fp8 = (
        dict(model.draw_weights(setting.shape, precision, torch.device("cpu"))) for precision in ("bfloat16", "fp8")
    )
    name = "text.layers.1.gate_up"
    values = fp8[f"{name}.weight"].float() * fp8[f"{name}.scale"][:, None]
    error = (values - plain_weights[f"{name}.weight"].float()).abs().amax(1)
    assert (error <= fp8[f"{name}.scale"] * 448 / 16).all()
    assert torch.equal(fp8["text.head.weight"], plain_weights["text.head.weight"])


def test_operations_agree_with_plain_ones(setting):
    found = ops.run(setting)
    assert len(found.lines) == 20
    assert all(line.met for line in found.lines)
    assert all(case["bytes_per_s"] > 0 for case in found.details.values())


@pytest.fixture
def run_broken(setting, monkeypatch):
    """Runs the part `ops` on operations that one of is replaced."""

    def run(name, operation):
        broken = types.SimpleNamespace(**{**vars(plain), name: operation})
        monkeypatch.setattr(ops, "select_ops", lambda *_: broken)
        return ops.run(setting)

    return run


@pytest.mark.parametrize("name", ["add_rms_norm", "swiglu", "rope_store", "attention"])
def test_a_wrong_operation_is_found(run_broken, name):
    def wrong(*arguments):
        out = getattr(plain, name)(*arguments)
        return type(out)(out.values, out.scale * 1.5) if isinstance(out, tuple) else out * 1.5

    met = {what.partition(":")[0]: met for what, met in verdicts(run_broken(name, wrong)).items()}
    assert {what for what, met in met.items() if not met} == {what for what in met if what.startswith(name)}


def test_a_cache_that_is_not_written_is_found(run_broken):
    found = run_broken("rope_store", lambda *given: plain.rope_store(*given[:-1], given[-1].clone()))
    assert [line.met for line in found.lines if line.what.startswith("rope_store")] == [False] * 3


def test_an_operation_that_fails_costs_no_other(run_broken, setting):
    def failing(*_):
        raise RuntimeError("illegal address")

    found = run_broken("quick_gelu", failing)
    assert [(line.what, line.figure) for line in found.lines if not line.met] == [("quick_gelu", "RuntimeError")]
    assert len(found.lines) == 20
    assert "illegal address" in setting.found_by("ops")["errors"]["quick_gelu"]


def test_what_was_found_before_the_end_counts(setting):
    """A part that is killed between two lines, and one that is stopped, leave what they had."""
    found = setting.find("killed")
    found.add("first", "1")
    content = json.loads((setting.work / "killed.json").read_text())
    assert [line["what"] for line in content["lines"]] == ["first"]


def test_matrix_products_have_rates(setting):
    found = gemm.run(setting)
    assert [line.what.split(",")[0] for line in found.lines] == ["bfloat16", "bfloat16", "int8", "int8"]
    assert min(rate for rates in found.details["int8"].values() for rate in rates.values()) > 0


@pytest.fixture(scope="module")
def pair(setting):
    return oracle.make_pair(setting.work / "pair")


def test_a_token_that_is_not_transformers_is_found(setting, pair):
    requests = oracle.random_requests(pair, 3, max_new_tokens=8)
    truth = [pair.reference(request, []) for request in requests]
    right, wrong = Findings(setting.work / "right.json"), Findings(setting.work / "wrong.json")
    parity._float32(right, setting, "x", pair, requests, truth, [(2, 1)])
    assert [(line.figure, line.met) for line in right.lines] == [("3 of 3", True), ("3 of 3", True)]
    truth[1][-1] ^= 1
    parity._float32(wrong, setting, "x", pair, requests, truth, [(2, 1)])
    assert (wrong.lines[0].figure, wrong.lines[0].met) == ("2 of 3", False)


def test_the_gap_of_another_token_is_how_much_less_likely_it_is(pair):
    request = oracle.random_requests(pair, 1, max_new_tokens=8)[0]
    ids = pair.reference(request, [])
    assert parity._gap(pair, request, ids, ids) is None
    text = np.concatenate([request.text_ids, np.array(ids[:3], np.int32)])
    with torch.inference_mode():
        logits = pair.model(**pair.inputs(request.pixels, text)).logits[0, -1]
    second = int(logits.topk(2).indices[1])
    gap = parity._gap(pair, request, ids, [*ids[:3], second, *ids[4:]])
    assert gap == pytest.approx(float((logits[ids[3]] - logits[second]) / logits.abs().max()), abs=1e-6)


def test_other_kinds_of_models_are_what_they_are_called(tmp_path):
    vision = oracle.make_pair(tmp_path, **parity.KINDS["SigLIP"]).spec.vision
    assert (vision.hidden_size // vision.num_heads, vision.image_size % vision.patch_size > 0) == (72, True)
    assert (vision.has_class_token, vision.num_image_tokens) == (False, 9)


def test_eight_bits_of_the_demo_engine_agree(setting, monkeypatch):
    found = setting.find("demo")
    parity._eight_bits(found, setting, 1)
    assert [line.met for line in found.lines] == [True, True, True]
    said = demo.DemoEngine.next_tokens
    monkeypatch.setattr(demo.DemoEngine, "next_tokens", lambda *a: [token ^ 1 for token in said(*a)])
    parity._eight_bits(found, setting, 1)
    assert [line.met for line in found.lines[3:]] == [False, False, False]


def test_the_step_is_measured_and_read_by_the_parts_after_it(setting, monkeypatch):
    monkeypatch.setattr(step, "TINY_WINDOW_S", 0.0)
    rates = Rates(precisions=("bfloat16", "bfloat16"), linear=1e12, other=1e12, copy=1e10)
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: rates)
    found = step.run(setting)
    recipe, bfloat16 = "fp8, FP8 cache", "bfloat16"
    assert [name.rpartition(", ")[::2] for name in found.details] == [
        *((variant, "65 tokens") for variant in (recipe, bfloat16, "fp8")),
        *((variant, tokens) for tokens in ("128 tokens", "varied tokens") for variant in (recipe, bfloat16)),
    ]
    for name, details in found.details.items():
        assert details["images"] > 0
        assert ("profile" in details) == (name.endswith("65 tokens"))
        assert all(ms > 0 for ms in details.get("profile", {}).values())
    found.save()
    rates = [details["images"] / details["seconds"] for details in found.details.values()]
    assert loader.fastest_engine(setting) == pytest.approx(max(rates))


def test_captions_of_one_image_are_measured_beside_one_alone(setting, monkeypatch):
    monkeypatch.setattr(step, "TINY_WINDOW_S", 0.0)
    found = several.run(setting)
    one, four = found.details.values()
    cost = (one["images"] / one["seconds"]) / (four["images"] / four["seconds"])
    assert found.lines[-1].what == "4 captions an image cost, as a multiple of 1"
    assert found.lines[-1].figure == f"{cost:.2f}"
    assert four["done"]["decode_rows"] >= 4 * four["images"]


def test_joycaption_is_measured(setting, monkeypatch):
    monkeypatch.setattr(step, "TINY_WINDOW_S", 0.0)
    found = joycaption.run(setting)
    variants = ["fp8, FP8 cache", "bfloat16"]
    assert list(found.details) == [f"{variant}, {tokens} tokens" for tokens in (9, 6) for variant in variants]
    for details in found.details.values():
        assert details["images"] > 0
    spec = model.make(dataclasses.replace(setting, model="joycaption"), "bfloat16").spec
    assert (spec.vision.num_image_tokens, spec.vision.hidden_size // spec.vision.num_heads) == (9, 72)
    assert spec.limits.max_new_tokens == 512


def test_a_case_without_time_is_left_out(setting):
    given = dataclasses.replace(setting, begun=time.time(), limit_s=step.ENOUGH_S - 1)
    found = several.run(given)
    assert [(line.figure, line.met) for line in found.lines] == 2 * [("no time left", False)]


def test_decoders_are_measured(setting, monkeypatch):
    monkeypatch.setattr(loader, "SIZES", ((64, 48),))
    found = loader.run(setting)
    assert found.details["pillow, (64, 48)"] > 0
    assert all(line.met for line in found.lines if "levels" in line.what)


def test_a_whole_run_is_measured(setting):
    found = end_to_end.run(setting)
    assert found.details["run"]["captioned"] == end_to_end.TINY_IMAGES
    assert found.details["run"]["num_tokens"] == end_to_end.TINY_IMAGES * end_to_end.TINY_TOKENS
    assert found.details["alone"] > 0


def test_captions_of_all_precisions_are_counted(setting, monkeypatch):
    bfloat16, none = agreement.Variant("bfloat16"), agreement.Variant("float32", decoder="none")
    cached = agreement.Variant("bfloat16", kv_precision="fp8")
    monkeypatch.setattr(agreement, "VARIANTS", (agreement.REFERENCE, bfloat16, cached, none))
    monkeypatch.setattr(agreement, "TINY_SCENES", 14)
    found = agreement.run(setting)
    row = found.details["float32, pillow"]
    assert row["as_reference"] == 1.0
    assert row["right"] > 0.5
    assert found.details["bfloat16, pillow"]["as_reference"] > 0.5
    assert found.details["bfloat16 with fp8 cache, pillow"].keys() - row.keys() == {"as_auto_cache"}
    assert found.details["bfloat16 with fp8 cache, pillow"]["as_auto_cache"] > 0.5
    assert EngineSpec.load(demo.build(setting, "bfloat16", "fp8")).kv_precision == "fp8"
    assert "--decoder is 'none'" in found.details["errors"]["float32, none"]


def test_the_same_captions_are_counted():
    ours, theirs = {"a": ("x", "stop"), "b": ("y", "stop")}, {"a": ("x", "length"), "b": ("z", "stop"), "c": ("", "")}
    assert agreement.share_equal(ours, theirs) == 0.5


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32>(Params)", "matrix products"),
        ("aten::_int_mm", "matrix products"),
        ("decode_attention_kernel", "decode attention"),
        ("gelu_tanh_kernel", "SwiGLU and GELU"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention of prompts and images"),
        ("add_rms_norm_kernel", "norms and what they quantize"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "element-wise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void odd::thing<int, 4>(int*)", "odd::thing"),
    ],
)
def test_kernels_have_kinds(kernel, kind):
    assert kind_of(kernel) == kind


def test_one_failure_costs_no_other(setting, monkeypatch, capsys):
    monkeypatch.setattr(command, "PARTS", dict.fromkeys(("no_such_part", "gemm"), GUARD_S))
    given = {"device": "cpu", "size": "tiny", "num_slots": None, "prefill_images": None, "work": str(setting.work)}
    *_, results = command.run_all(["no_such_part", "gemm"], given, 60.0)
    assert results["no_such_part"]["error"] == "exit code 1"
    assert "No module named 'suite.no_such_part'" in results["no_such_part"]["output"]
    assert results["gemm"]["error"] is None
    assert len(results["gemm"]["lines"]) == 4
    assert not command.is_good(results)
    text = command.table(results)
    assert "no_such_part FAILED: exit code 1: ModuleNotFoundError" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_part_that_hangs_is_stopped(setting):
    given = {"device": "cpu", "size": "tiny", "work": str(setting.work)}
    found = command.run_part("parity", given, 0.3)
    assert found["error"] == "stopped after 0 s"
    assert found["lines"] == []


def test_what_does_not_fit_into_the_minutes_is_left_out(setting):
    (results,) = command.run_all(["gemm"], {"work": str(setting.work)}, 0.0)
    assert results["gemm"]["error"] == "no time left"


def test_main_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    line = {"what": "speed", "figure": "9.0 images/s", "bar": ">= 10", "met": False}
    found = {"lines": [line], "details": {"x": 1}, "seconds": 1.0, "error": None, "output": ""}
    monkeypatch.setattr(command, "run_part", lambda *_: found)
    output = tmp_path / "new folder/2026-01-01_card_gpu-suite"
    assert command.main(["--only", "gemm", "--size", "tiny", "--output", str(output)]) == 1
    printed = capsys.readouterr().out
    assert "9.0 images/s  >= 10         MISSED" in printed
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["parts"]["gemm"]["details"] == {"x": 1}
    assert set(content) >= {"command", "machine", "commit", "versions", "card"}
    assert printed.strip() in output.with_suffix(".md").read_text()
    line["met"] = True
    assert command.main(["--only", "gemm", "--size", "tiny"]) == 0
