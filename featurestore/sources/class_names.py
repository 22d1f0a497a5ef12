"""Class names that Hugging Face keeps beside class numbers, wherever they stand in a column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def hub_features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features by column that Hugging Face wrote into a schema's metadata, as JSON."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def is_class(feature: Any) -> bool:
    """Whether a feature is one of class numbers with names."""
    return (
        isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and bool(feature.get("names"))
    )


def class_columns(features: Mapping[str, Any]) -> list[str]:
    """Return the columns of class numbers, then those of lists of them."""
    lists = [name for name, one in features.items() if is_class(_inner(one))]
    return [*(name for name, one in features.items() if is_class(one)), *lists]


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names in the order of their numbers, of each of `class_columns`."""
    found = {}
    for name in class_columns(features):
        feature = features[name]
        found[name] = list(feature["names"] if is_class(feature) else _inner(feature)["names"])
    return found


def with_class_names(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """Replace class numbers by names, also in lists and structs; -1 and null mean no label."""
    for at, name in enumerate(table.column_names):
        feature = features.get(name)
        if feature is not None and _has_class(feature):
            table = table.set_column(at, name, _named(table.column(name).combine_chunks(), feature))
    return table.replace_schema_metadata(table.schema.metadata)


def _inner(feature: Any) -> Any:
    """Return the feature of a list's values; older files write a list of one feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.get("feature") if isinstance(feature, dict) else None


def _has_class(feature: Any) -> bool:
    if is_class(feature):
        return True
    inside = feature.values() if isinstance(feature, dict) else feature
    return any(_has_class(one) for one in inside if isinstance(one, (dict, list)))


def _named(values: pa.Array, feature: Any) -> pa.Array:
    if is_class(feature):
        return _names_of(values, feature["names"])
    inner, kind = _inner(feature), values.type
    if inner is not None and is_list(kind):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
        names = _named(values.flatten(), inner)
        return pa.LargeListArray.from_arrays(offsets, names, mask=pc.is_null(values))
    if pa.types.is_struct(kind):
        # A list of structs is kept as a struct of lists.
        of = {name: {"feature": one} for name, one in inner.items()} if inner else feature
        fields = [
            _named(part, of[field.name]) if _has_class(of.get(field.name, {})) else part
            for field, part in zip(kind, values.flatten(), strict=True)
        ]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(fields, names, mask=pc.is_null(values))
    return values


def _names_of(numbers: pa.Array, names: list[str]) -> pa.Array:
    if not pa.types.is_integer(numbers.type):
        return numbers
    numbers = numbers.cast(pa.int64())
    known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
    chosen = pc.if_else(known, numbers, pa.scalar(None, pa.int64()))
    return pa.array(names, pa.string()).take(chosen)


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of one length or of several."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
