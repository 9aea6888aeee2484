"""Outputs of runs that never were are as good as those of real ones."""

import pyarrow.compute as pc
import pyarrow.parquet as pq

from inputs.captions import MEAN_WORDS, write_output
from recap_fast.launch.verification import verify


def test_verify_proves_the_output_against_its_inputs(tmp_path):
    output = write_output(tmp_path, 300, per_shard=100, images=True)
    verdict = verify(output, [str(tmp_path / "in" / "*.tar")], (), 30.0)
    assert not verdict.faults
    assert (verdict.num_shards, verdict.rows, verdict.num_compared) == (3, 300, 3)
    assert 0 < verdict.captioned < 300


def test_the_same_arguments_give_the_same_rows_and_captions_are_as_long_as_real_ones(tmp_path):
    for name in "ab":
        write_output(tmp_path / name, 2000, seed=3)
    tables = [pq.read_table(tmp_path / name / "out" / "data" / "00000.parquet") for name in "ab"]
    assert tables[0].equals(tables[1])
    for kind, mean in MEAN_WORDS.items():
        assert abs(pc.mean(tables[0][f"{kind}_length"]).as_py() - mean) < 0.1 * mean
    assert {*pc.list_flatten(tables[0]["flags"]).to_pylist()} == {"stock_opening", "loop"}
