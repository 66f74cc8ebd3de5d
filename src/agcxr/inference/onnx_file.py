"""What an ONNX file asks of the runtime that loads it, read before the runtime does. Such files come from anywhere.

`agcxr export` writes one file of plain operators, so anything else is refused: weights in other files (whose names may
lead out of the folder), operators of other makers (which load code), functions, and graphs within graphs (loops, which
may never end). Only the protobuf's structure is walked: tensors are skipped, and nothing is copied.

Field numbers are those of onnx.proto3 (ONNX 1.12 on).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

OPSET, IR_VERSION = 20, 9
"""Of the files that `agcxr export` writes: ONNX 1.15's, which ONNX Runtime knows from OLDEST_RUNTIME on."""
OLDEST_RUNTIME = "1.17"

OWN_DOMAINS = ("", "ai.onnx")
"""How ONNX's own set of operators may be called."""

LARGEST = 2**31
"""Bytes of a protobuf message at most, by its own rules."""

Span: TypeAlias = tuple[int, int]
Field: TypeAlias = tuple[int, int | Span]
"""A field's number, and its value: a number, or where its bytes lie."""

_IR_VERSION, _GRAPH, _OPSET, _TRAINING, _FUNCTION = 1, 7, 8, 20, 25  # of ModelProto
_SET_DOMAIN, _SET_VERSION = 1, 2  # of OperatorSetIdProto
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15  # of GraphProto
_ATTRIBUTE, _DOMAIN = 5, 7  # of NodeProto
_TENSORS, _SUBGRAPHS, _SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)  # of AttributeProto
_EXTERNAL, _LOCATION = 13, 14  # of TensorProto


@dataclass(frozen=True)
class Asks:
    """The versions that a file states: a runtime must know both. 0: not stated."""

    opset: int
    ir_version: int

    def __str__(self) -> str:
        return f"opset {self.opset} and IR version {self.ir_version}"


def check_plain(path: Path) -> Asks:
    """What the file asks of a runtime, once it is known to hold plain operators and weights only.

    Raises ValueError where it is no ONNX file, or asks for more than its own plain operators and weights.
    """
    size = path.stat().st_size
    if not 0 < size < LARGEST:
        raise ValueError(f"{path} has {size:,} bytes, so it is no ONNX file; expected one written by `agcxr export`")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        try:
            told = reader.model((0, len(data)))
        except (_DamagedError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no ONNX file ({error}); export it again") from None
    if told:
        raise ValueError(f"{path} {told}, which `agcxr export` never writes; it is not loaded")
    return Asks(reader.opset, reader.ir_version)


class _DamagedError(Exception):
    """The bytes are no protobuf."""


class _Reader:
    """Each method says what is wrong with one message, or nothing."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.opset = self.ir_version = 0

    def model(self, span: Span) -> str:
        graphs = 0
        for number, value in self._fields(span):
            if number == _IR_VERSION:
                self.ir_version = _number(value)
            if number == _OPSET:
                self._operators(_span(value))
            if number in (_FUNCTION, _TRAINING):
                return "holds functions or training graphs"
            if number == _GRAPH:
                graphs += 1
                if told := self._graph(_span(value)):
                    return told
        if graphs != 1:
            raise _DamagedError("it holds no graph" if not graphs else "it holds several graphs")
        return ""

    def _operators(self, span: Span) -> None:
        """The version of ONNX's own operators; sets of other makers are met where a node uses them."""
        domain, version = "", 0
        for number, value in self._fields(span):
            if number == _SET_DOMAIN:
                domain = self._domain(_span(value))
            if number == _SET_VERSION:
                version = _number(value)
        if domain in OWN_DOMAINS:
            self.opset = version

    def _domain(self, span: Span) -> str:
        start, end = span
        return self._data[start : min(end, start + 60)].decode("ascii", "replace")

    def _graph(self, span: Span) -> str:
        for number, value in self._fields(span):
            told = ""
            if number == _NODE:
                told = self._node(_span(value))
            elif number == _INITIALIZER:
                told = self._tensor(_span(value))
            elif number == _SPARSE:
                told = "holds sparse weights"
            if told:
                return told
        return ""

    def _node(self, span: Span) -> str:
        for number, value in self._fields(span):
            if number == _DOMAIN:
                domain = self._domain(_span(value))
                if domain not in OWN_DOMAINS:
                    return f"uses operators of {domain!r}"
            elif number == _ATTRIBUTE and (told := self._attribute(_span(value))):
                return told
        return ""

    def _attribute(self, span: Span) -> str:
        for number, value in self._fields(span):
            if number in _SUBGRAPHS:
                return "holds graphs within its graph (loops or branches)"
            if number in _SPARSE_TENSORS:
                return "holds sparse weights"
            if number in _TENSORS and (told := self._tensor(_span(value))):
                return told
        return ""

    def _tensor(self, span: Span) -> str:
        for number, value in self._fields(span):
            if number == _EXTERNAL or (number == _LOCATION and value != 0):
                return "keeps weights in other files"
        return ""

    def _fields(self, span: Span) -> Iterator[Field]:
        at, end = span
        while at < end:
            key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self._varint(at, end)
                yield number, value
                continue
            if kind == 2:
                length, at = self._varint(at, end)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise _DamagedError(f"field of type {kind} at byte {at:,}")
            if length > end - at:
                raise _DamagedError(f"a field ends beyond its message at byte {at:,}")
            yield number, (at, at + length)
            at += length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise _DamagedError(f"a number without an end at byte {at:,}")


def _number(value: int | Span) -> int:
    if not isinstance(value, int):
        raise _DamagedError("a message where a number was expected")
    return value


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise _DamagedError("a number where a message was expected")
    return value
