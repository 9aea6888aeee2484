"""A fake `tensorrt_llm` that takes only what recap-fast may ask of the real one, with a small Llama that really runs.

It shows that we call what was read in NVIDIA's sources, in the way that was read there. Whether that reading is right
only the real package on a GPU can show: `pytest -m trtllm`.

    strict.py      the rules for arguments and attributes, the record of all calls, and the faults that a test can order
    builder.py     what reads, quantizes and compiles a model: tensorrt_llm.builder, .models, .quantization
    executor.py    what runs it: tensorrt_llm.bindings.executor
    llama.py       the arithmetic of both
    package.py     puts them where `import tensorrt_llm` finds them

Each class says the source file that its names, parameters and defaults were read from, and how near that was to 1.2.1:
"1.2.1" is that version's own page, "1.2" a source between 1.1 and 1.3.0rc20, "memory" neither. Only what recap-fast
uses is there; everything else raises, as a name does that the real library does not have. Parameters behind one that
is left out are keyword-only.

Traps of the real library that the fake has as well: "llava" or "vila" in a path; a Llama config without rope_theta;
calibration texts that would be fetched; a second build of one model; an engine of another version; prompt tables of
the wrong type, shape or size, or not contiguous; chunked context; block reuse left on (another image's caption); the
prompt's ids in the output unless excluded; captions cut at max_seq_len. What no request is to blame for raises
`TrapError` or RuntimeError where the caller asks next.
"""
