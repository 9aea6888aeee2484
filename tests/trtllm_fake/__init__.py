"""A fake `tensorrt_llm`, as strict as the contract table that it is made of, with a small Llama that really runs.

It shows one thing only: that we call what was recorded (tests/data/trtllm_contract.json), in the way that was recorded.
Whether the recording is right, only the real package on a GPU can show: `pytest -m trtllm`.

In a test::

    from trtllm_fake.faults import Faults
    from trtllm_fake.package import installed

    @pytest.fixture
    def library(tmp_path):
        with installed(tmp_path / "site", Faults(failing=(2,))) as fake:
            yield fake

    def test_reuse_is_off(library):
        ...                                          # the backend imports tensorrt_llm, lazily, and works
        (given,) = library.calls("bindings.executor.KvCacheConfig")
        assert given["enable_block_reuse"] is False

For another process, such as `recap-fast run`::

    from trtllm_fake.package import write_site

    site = write_site(tmp_path / "site", Faults(dies_after=3), startup=GPU)
    subprocess.run([...], env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"})

`startup` is Python that the process runs first; demo.GPU lets the backend find a GPU. The folder also has metadata of
the distributions tensorrt-llm, tensorrt and nvidia-modelopt. All that can be set is in faults.py.

The files
- contract.py reads the table and makes strict classes of it; package.py puts them together and in place; faults.py.
- engine_flow.py, executor.py: the compiled flow. pytorch_flow.py, torch_models.py, output.py: the other one. llama.py
  is the arithmetic of both, loop.py their in-flight batching.
- callers.py, plain_llama.py: a correct user of both flows, for the fake's own tests; demo.py: the commands.
- lint.py and source_checker.py check the project's source against the table; regenerate.py compares the table with the
  real package.

What it does
- Arguments, attributes and types are checked against the table: a numpy integer where an int was recorded raises.
- `LLaMAForCausalLM.from_hugging_face(dir)` reads config.json and *.safetensors of a plain Llama; `quantize` rounds the
  linear layers to FP8; `build`, `Engine.save` write config.json (version, pretrained_config, build_config) and
  rank0.engine; `Executor` runs requests in a thread of its own, greedily or by top_k, top_p, temperature and seed.
- `LLM` calls the registered model class and input processor, with all rows of a step in one call of `forward`.
- Calls are kept: `fake.calls("bindings.executor.Request")`.

Traps of the real library that it has as well: 'llava' or 'vila' in a path; a second build of one model; prompt tables
of the wrong type, shape or size, or not contiguous; block reuse left on (another image's caption); the prompt's ids
in the output unless excluded; max_tokens cut at max_seq_len; an engine of another version; chunked context or prefill;
token ids beside embeddings (1.2.1 drops those); `finished` that nobody turns True; a Llama config without rope_theta;
calibration texts that would be fetched. What is nobody's request's fault raises `TrapError` (llama.py) or RuntimeError
where the caller asks next.
"""
