"""An Arrow schema as `datasets` names it: its features, for the metadata of a Parquet file and for a dataset card.

`datasets` writes the same into the files that it makes. From them `load_dataset` and the Hub's viewer know which column
has images. https://huggingface.co/docs/datasets/about_dataset_features
"""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The type of a column with images: the bytes of each file, and its name."""
_METADATA = b"huggingface"
_NAMES = {pa.float64(): "float64", pa.float32(): "float32", pa.bool_(): "bool"}


def with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with its features in its metadata; what else is there stays."""
    features = {field.name: _feature(field.type) for field in schema}
    content = json.dumps({"info": {"features": features}}).encode()
    return schema.with_metadata({**(schema.metadata or {}), _METADATA: content})


def yaml_features(schema: pa.Schema) -> str:
    """The features as a dataset card has them below `features:`, some lines for each column."""
    return _yaml_fields(schema, "  ")


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": _name(kind), "_type": "Value"}


def _yaml_fields(fields: Iterable[pa.Field], indent: str) -> str:
    return "".join(f"{indent}- name: {each.name}\n{indent}  {_yaml(each.type, indent)}\n" for each in fields)


def _yaml(kind: pa.DataType, indent: str) -> str:
    if not pa.types.is_list(kind):
        return f"dtype: {'image' if kind == IMAGE else _name(kind)}"
    if not pa.types.is_struct(kind.value_type):
        return f"list: {_name(kind.value_type)}"
    return f"list:\n{_yaml_fields(kind.value_type, f'{indent}  ')}".rstrip("\n")


def _name(kind: pa.DataType) -> str:
    """What `datasets` calls a type that is no list; for those of our columns mostly what Arrow calls it."""
    return _NAMES.get(kind, str(kind))
