"""The features of a schema, against those that `datasets` finds in it."""

import datasets
import pyarrow as pa
import yaml

from recap_fast.export.features import IMAGE, with_features, yaml_features
from recap_fast.write.schema import SCHEMA

WIDE = pa.schema([("image", IMAGE), *SCHEMA, ("flags2", pa.list_(pa.string())), ("numbers", pa.list_(pa.int64()))])


def as_datasets_has_them(schema: pa.Schema) -> datasets.Features:
    features = datasets.Features.from_arrow_schema(schema.remove_metadata())
    return datasets.Features({**features, **({"image": datasets.Image()} if "image" in schema.names else {})})


def test_the_metadata_is_what_datasets_writes_into_its_own_files() -> None:
    expected = as_datasets_has_them(WIDE).arrow_schema.metadata
    assert with_features(WIDE).metadata == expected
    assert datasets.Features.from_arrow_schema(with_features(WIDE)) == as_datasets_has_them(WIDE)


def test_other_metadata_of_a_schema_stays() -> None:
    schema = with_features(SCHEMA.with_metadata({"recap_fast.engine": "demo"}))
    assert schema.metadata[b"recap_fast.engine"] == b"demo"
    assert b"huggingface" in schema.metadata


def test_a_cards_lines_are_the_same_features() -> None:
    found = yaml.safe_load(f"features:\n{yaml_features(WIDE)}")["features"]
    assert found == as_datasets_has_them(WIDE)._to_yaml_list()
    assert datasets.Features._from_yaml_list(found) == as_datasets_has_them(WIDE)
