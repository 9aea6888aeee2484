"""A run goes through the C++ core: its tokenizer, packing and Parquet writer are counted at their doors."""

import pyarrow.parquet as pq
import pytest
from support import runs

from recap_fast.arrow_core import core


class Calls:
    """Counts what goes through the core's classes and functions."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.encoded: list[str] = []
        self.detokenized: list[str] = []
        self.packed = self.written = 0
        real_tokenizer, real_pack, real_writer = core.Tokenizer, core.pack_prompts, core.ParquetWriter
        calls = self

        class Tokenizer:
            def __init__(self, *arguments):
                self._real = real_tokenizer(*arguments)
                self.vocab_size = self._real.vocab_size

            def encode(self, text, *rest):
                calls.encoded.append(text)
                return self._real.encode(text, *rest)

            def detokenize(self, rows):
                texts = self._real.detokenize(rows)
                calls.detokenized += texts
                return texts

        class ParquetWriter:
            def __init__(self, *arguments, **options):
                self._real = real_writer(*arguments, **options)

            def __enter__(self):
                self._real.__enter__()
                return self

            def __exit__(self, *error):
                return self._real.__exit__(*error)

            def write(self, batch):
                calls.written += batch.num_rows
                self._real.write(batch)

        def pack_prompts(texts, *arguments, **options):
            calls.packed += len(texts)
            return real_pack(texts, *arguments, **options)

        patch.setattr(core, "Tokenizer", Tokenizer)
        patch.setattr(core, "ParquetWriter", ParquetWriter)
        patch.setattr(core, "pack_prompts", pack_prompts)


def test_a_run_goes_through_the_native_tokenizer_packing_and_writer(start, monkeypatch, tmp_path):
    calls = Calls(monkeypatch)
    for name in ("write_table", "ParquetWriter"):
        monkeypatch.setattr(pq, name, None)
    assert start(prompt="{org_caption}?").outcome == 0
    rows = runs.read_rows(tmp_path / "out")
    assert calls.packed == len(rows) == 12
    assert calls.written == 12
    assert sorted(text.strip() for text in calls.detokenized) == sorted(row["re_caption"] for row in rows)
    asked = [text for text in calls.encoded if "alt text" in text]
    assert len(asked) >= 12
