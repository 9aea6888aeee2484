"""The output columns, once: Recap-DataComp-1B's first, in its order and types, then ours.

https://huggingface.co/datasets/UCSC-VLAA/Recap-DataComp-1B has the first eleven columns. Its scores are null here:
`recap-fast score` writes them to files beside the captions.
"""

import pyarrow as pa

CAPTION = pa.struct(
    [
        ("name", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
    ]
)
"""One of several captions of an image: the name of its prompt and the question, with its fields unfilled; see
`caption_lists.py`."""
LATER = ("flags", "duplicate_of", "captions")
"""Columns that outputs of earlier versions may lack; see `run_file.READABLE_SCHEMAS`."""
SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("re_caption", pa.string()),
        ("org_caption", pa.string()),
        ("sha256", pa.string()),
        ("key", pa.string()),
        ("re_clip_score", pa.float64()),
        ("org_clip_score", pa.float64()),
        ("re_length", pa.int64()),
        ("org_length", pa.int64()),
        ("re_gpt4v_score", pa.int64()),
        ("org_gpt4v_score", pa.int64()),
        ("uid", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("file_name", pa.string()),
        ("input_version", pa.string()),
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("warning", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("metadata", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("duplicate_of", pa.string()),
        ("captions", pa.list_(CAPTION)),
    ]
)
