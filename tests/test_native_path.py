"""A run goes through the C++ core: its tokenizer, packing and Parquet writer are watched at their doors."""

from unittest.mock import Mock

import pyarrow.parquet as pq
from support import runs

from recap_fast.arrow_core import core


def test_a_run_goes_through_the_native_tokenizer_packing_and_writer(start, monkeypatch, tmp_path):
    make_tokenizer, tokenizers = core.Tokenizer, []

    def watched(*arguments):
        made = make_tokenizer(*arguments)
        doors = {"encode": Mock(wraps=made.encode), "detokenize": Mock(wraps=made.detokenize)}
        tokenizers.append(Mock(vocab_size=made.vocab_size, **doors))
        return tokenizers[-1]

    writer, pack = Mock(wraps=core.ParquetWriter), Mock(wraps=core.pack_prompts)
    for name, door in (("Tokenizer", watched), ("ParquetWriter", writer), ("pack_prompts", pack)):
        monkeypatch.setattr(core, name, door)
    for name in ("write_table", "ParquetWriter"):
        monkeypatch.setattr(pq, name, None)
    assert start(prompt="{org_caption}?").outcome == 0
    assert len(runs.read_rows(tmp_path / "out")) == 12
    (tokenizer,) = tokenizers
    assert sum("alt text" in call.args[0] for call in tokenizer.encode.call_args_list) >= 12
    assert sum(len(call.args[0]) for call in tokenizer.detokenize.call_args_list) == 12
    assert sum(len(call.args[0]) for call in pack.call_args_list) == 12
    assert writer.call_count == 2
