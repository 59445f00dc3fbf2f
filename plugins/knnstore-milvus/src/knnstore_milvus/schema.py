"""What is stored with a collection: its schema on the server, and in its description who made it, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus.grpc_gen import common_pb2, schema_pb2

from knnstore.errors import InvalidURLError, StoreCorruptError
from knnstore.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Metric, StoreSpec
from knnstore_milvus.columns import TYPES, stored_dim
from knnstore_milvus.names import ID, VECTOR, field_name

__all__ = ["MARK", "METRICS", "Found", "Meta", "collection_schema", "description", "pairs"]

METRICS: Mapping[Metric, str] = {"cosine": "IP", "dot": "IP", "l2": "L2"}
"""Rows are of unit length under cosine already; the server must not normalise them again."""
MARK = "knnstore"
_FORMAT = 1
_TENANT_TYPES = (str, int)


@dataclass(frozen=True, slots=True)
class Meta:
    """What the description says.

    Args:
        path: of the URL that the collection was created at.
        spec: what it holds.
        created: the options that it was created with; see :data:`knnstore_milvus.options.CREATING`.
    """

    path: str
    spec: StoreSpec
    created: Mapping[str, str | int | bool]

    def to_text(self) -> str:
        """The same text for the same content, so that two creators of one collection agree."""
        content = {MARK: _FORMAT, "path": self.path, "spec": json.loads(self.spec.to_json())}
        return json.dumps({**content, "created": dict(self.created)}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str, where: str) -> Meta:
        """The inverse.

        Raises:
            StoreCorruptError: the collection was not made by knnstore, or by a later version of it.
        """
        raw = _json(text)
        if raw.get(MARK) != _FORMAT:
            raise StoreCorruptError(
                where,
                expected="a collection that knnstore has made",
                got=f"format {raw[MARK]!r} of it" if MARK in raw else "one that something else has made",
                hint="Nothing was changed. Choose another name.",
            )
        try:
            return cls(str(raw["path"]), StoreSpec.from_json(json.dumps(raw["spec"])), dict(raw["created"]))
        except (LookupError, TypeError, ValueError) as error:
            raise StoreCorruptError(
                where, expected="the description that knnstore has written", got=text[:80]
            ) from error


@dataclass(frozen=True, slots=True)
class Found:
    """A collection that is there.

    Args:
        meta: its description.
        identity: the number that the server has given it, and gives to no other one, except on milvus-lite.
    """

    meta: Meta
    identity: int


def _json(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError:
        return {}
    return raw if isinstance(raw, dict) else {}


def description(found: Any) -> str:
    """What the collection of a DescribeCollectionResponse says of itself: in a property, or in its description."""
    return next((pair.value for pair in found.properties if pair.key == MARK), found.schema.description)


def pairs(values: Mapping[str, object]) -> list[Any]:
    """Parameters as Milvus takes them: texts."""
    return [common_pb2.KeyValuePair(key=key, value=_text(value)) for key, value in values.items()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def collection_schema(name: str, meta: Meta) -> Any:
    """The schema to create.

    Raises:
        InvalidURLError: the partition key is not a declared field of type str or int.
    """
    tenant, fields = str(meta.created["partition_key"]), meta.spec.fields
    if tenant and fields.get(tenant) not in _TENANT_TYPES:
        able = sorted(n for n, kind in fields.items() if kind in _TENANT_TYPES)
        raise InvalidURLError(
            "option partition_key", expected=f"a declared field of type str or int: {able}", got=repr(tenant)
        )
    columns = [
        _field(ID, TYPES[str], {"max_length": MAX_ID_BYTES}, is_primary_key=True),
        _field(VECTOR, schema_pb2.DataType.FloatVector, {"dim": stored_dim(meta.spec.dim)}),
    ]
    for declared, kind in fields.items():
        limits = {"max_length": MAX_TEXT_BYTES} if kind is str else {}
        columns.append(_field(field_name(declared), TYPES[kind], limits, is_partition_key=declared == tenant))
    return schema_pb2.CollectionSchema(name=name, description=meta.to_text(), fields=columns)


def _field(name: str, kind: int, limits: Mapping[str, int], **flags: bool) -> Any:
    return schema_pb2.FieldSchema(name=name, data_type=kind, type_params=pairs(limits), **flags)
