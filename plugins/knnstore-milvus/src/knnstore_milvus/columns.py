"""Columns of a store as columns of a request, and back. Vectors and doubles go as blocks of bytes.

A packed repeated field of protobuf is a tag, a length and the little-endian numbers, so that a block of memory can be
put in and taken out as it is. pymilvus goes through a Python float for each number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from pymilvus.grpc_gen import schema_pb2

from knnstore.filters import FieldType
from knnstore.types import Batch, Column, Records, StoreSpec, empty_column
from knnstore_milvus.names import ID, VECTOR, field_name

__all__ = ["TYPES", "decode", "encode", "ids_of", "numbers", "records_of", "stored_dim"]

TYPES: Mapping[FieldType, int] = {
    str: schema_pb2.DataType.VarChar,
    int: schema_pb2.DataType.Int64,
    float: schema_pb2.DataType.Double,
    bool: schema_pb2.DataType.Bool,
}
_PACKED_FIELD_1 = b"\x0a"


def stored_dim(dim: int) -> int:
    """The width on the server, which wants two numbers at least: a column of zeros changes no product or distance."""
    return max(dim, 2)


def padded(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors as the server holds them: float32 (N, stored_dim)."""
    if vectors.shape[1] == stored_dim(vectors.shape[1]):
        return vectors
    return np.concatenate([vectors, np.zeros_like(vectors)], axis=1)


def _packed(values: NDArray[Any]) -> bytes:
    """The wire form of a message whose field 1 holds these numbers."""
    content = values.tobytes()
    return _PACKED_FIELD_1 + _varint(len(content)) + content if content else b""


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def numbers(message: Message, dtype: str, count: int) -> NDArray[Any]:
    """The inverse, for a message with one field of packed numbers.

    Args:
        message: such as a FloatArray.
        dtype: little-endian, such as ``"<f4"``.
        count: how many numbers it holds.
    """
    content = message.SerializeToString()
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(content, dtype, count, len(content) - size).copy()


def encode(batch: Batch, spec: StoreSpec) -> list[Any]:
    """The columns of an upsert: ids, vectors, declared fields."""
    data = schema_pb2.FieldData
    dim = stored_dim(spec.dim)
    ids = data(field_name=ID, type=TYPES[str])
    ids.scalars.string_data.data.extend(batch.ids)
    vectors = data(field_name=VECTOR, type=schema_pb2.DataType.FloatVector)
    vectors.vectors.dim = dim
    vectors.vectors.float_vector.MergeFromString(_packed(padded(batch.vectors)))
    return [ids, vectors, *(_encode_column(name, kind, batch.fields[name]) for name, kind in spec.fields.items())]


def _encode_column(name: str, kind: FieldType, column: Column) -> Any:
    message = schema_pb2.FieldData(field_name=field_name(name), type=TYPES[kind])
    if kind is str:
        message.scalars.string_data.data.extend(column.tolist())
    elif kind is float:
        message.scalars.double_data.MergeFromString(_packed(column))
    elif kind is int:
        message.scalars.long_data.data.extend(column.tolist())
    else:
        message.scalars.bool_data.data.extend(column.tolist())
    return message


def texts(values: Iterable[str]) -> NDArray[np.object_]:
    """An object column; NumPy's own text type would drop a NUL at the end."""
    listed = list(values)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column


def ids_of(found: Any) -> NDArray[np.object_]:
    """The ids of a SearchResultData."""
    return texts(found.ids.str_id.data)


def decode(message: Any, kind: FieldType) -> Column:
    """One scalar column of an answer."""
    if kind is str:
        return texts(message.scalars.string_data.data)
    if kind is float:
        return numbers(message.scalars.double_data, "<f8", len(message.scalars.double_data.data))
    if kind is int:
        return np.array(message.scalars.long_data.data, np.int64)
    return np.array(message.scalars.bool_data.data, np.bool_)


def records_of(fields_data: Iterable[Any], spec: StoreSpec, fields: list[str], with_vectors: bool) -> Records:
    """The records of a query's answer."""
    by_name = {message.field_name: message for message in fields_data}
    ids = texts(by_name[ID].scalars.string_data.data if ID in by_name else ())
    vectors = np.empty((0, spec.dim), np.float32) if with_vectors else None
    if with_vectors and len(ids):
        flat = by_name[VECTOR].vectors.float_vector
        vectors = numbers(flat, "<f4", len(ids) * stored_dim(spec.dim)).reshape(len(ids), -1)[:, : spec.dim]
        vectors = np.ascontiguousarray(vectors)
    columns = {
        name: decode(by_name[field_name(name)], spec.fields[name]) if len(ids) else empty_column(spec.fields[name], 0)
        for name in fields
    }
    return Records(ids, vectors, columns)
