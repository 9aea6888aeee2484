import pyarrow as pa

from recap_fast.write.schema import SCHEMA

RECAP_DATACOMP_1B = [
    ("url", "string"),
    ("re_caption", "string"),
    ("org_caption", "string"),
    ("sha256", "string"),
    ("key", "string"),
    ("re_clip_score", "double"),
    ("org_clip_score", "double"),
    ("re_length", "int64"),
    ("org_length", "int64"),
    ("re_gpt4v_score", "int64"),
    ("org_gpt4v_score", "int64"),
]
OURS = [
    ("uid", "string"),
    ("shard", "string"),
    ("index", "int64"),
    ("file_name", "string"),
    ("input_version", "string"),
    ("image_sha256", "string"),
    ("width", "int32"),
    ("height", "int32"),
    ("status", "string"),
    ("error", "string"),
    ("warning", "string"),
    ("finish_reason", "string"),
    ("num_tokens", "int32"),
    ("metadata", "string"),
    ("flags", "list<item: string>"),
    ("duplicate_of", "string"),
    (
        "captions",
        "list<item: struct<name: string, prompt: string, text: string, finish_reason: string, num_tokens: int32>>",
    ),
]


def test_the_columns_are_recap_datacomp_1bs_and_then_ours():
    assert [(field.name, str(field.type)) for field in SCHEMA] == RECAP_DATACOMP_1B + OURS


def test_every_column_may_be_null():
    assert all(field.nullable for field in SCHEMA)
    pa.RecordBatch.from_pylist([{}], schema=SCHEMA).validate(full=True)
