"""safetensors files a tensor at a time: what is read and written of a model is never more than one of its tensors.

The format: the header's length (8 bytes, little-endian), the header (JSON: name → dtype, shape, data_offsets), data.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from train.core.errors import BaseError

INDEX_FILE = "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one number, in the types that weights are computed in."""


class StoredTensor(NamedTuple):
    """One tensor as it lies in a file."""

    file: Path
    dtype: str
    """Type as safetensors writes it: BF16, F32, …"""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    size: int
    """Length in bytes."""

    def read(self) -> bytearray:
        data = bytearray(self.size)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start)
            view = memoryview(data)
            while view:  # Linux reads at most 2 GiB at once
                count = file.readinto(view)
                if not count:
                    raise BaseError(f"{self.file} ends in the middle of a tensor")
                view = view[count:]
        return data


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load: those of the index, or the single one; none where there is neither."""
    single, index = folder / "model.safetensors", folder / INDEX_FILE
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseError(f"{index} is damaged: {error}") from None


def read_headers(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Every tensor of the files by name, in the order of their bytes; BaseError for what is no safetensors file."""
    found = {}
    for path in files:
        length, header = _header(path)
        try:
            tensors = {name: value for name, value in header.items() if name != "__metadata__"}
            for name in sorted(tensors, key=lambda name: tensors[name]["data_offsets"]):
                start, end = tensors[name]["data_offsets"]
                shape = tuple(tensors[name]["shape"])
                found[name] = StoredTensor(path, tensors[name]["dtype"], shape, 8 + length + start, end - start)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BaseError(f"{path} has a damaged header: {type(error).__name__} {error}") from None
    return found


class PlannedTensor(NamedTuple):
    """One tensor to be written."""

    dtype: str
    shape: tuple[int, ...]
    size: int


def write_shard(
    path: Path, planned: Mapping[str, PlannedTensor], tensors: Iterator[bytes | bytearray | StoredTensor]
) -> None:
    """A file of these tensors; their data is asked for one by one, in the order of `planned`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for name, tensor in planned.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), data in zip(planned.items(), tensors, strict=True):
            before = file.tell()
            _write(file, data)
            if file.tell() - before != tensor.size:
                raise ValueError(f"{name}: {file.tell() - before} bytes instead of {tensor.size}")


def _write(file: BinaryIO, data: bytes | bytearray | StoredTensor) -> None:
    if not isinstance(data, StoredTensor):
        file.write(data)
        return
    with data.file.open("rb") as source:
        source.seek(data.start)
        left = data.size
        while left:
            block = source.read(min(left, 2**24))
            if not block:
                raise BaseError(f"{data.file} ends in the middle of a tensor")
            file.write(block)
            left -= len(block)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """(bytes of the header, the header)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length) if length < path.stat().st_size else b"")
            return length, header
    except (ValueError, RecursionError):
        raise BaseError(f"{path} is not a whole safetensors file") from None
