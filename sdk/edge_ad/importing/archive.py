"""Files of ``torch.save``: a zip archive with a pickle and the tensors' bytes beside it."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from edge_ad.importing.pickled import Build, Global, Malformed, read_pickle
from edge_ad_runtime.errors import InputError

_PICKLE = "data.pkl"
# What zipfile raises for damaged archives, beside its own error.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    OverflowError,
    struct.error,
)
_ZIP_START = b"PK\x03\x04"
# What the first bytes of torch's older format look like: a pickle of the number 0x1950a86a20f9469cfc6c.
_LEGACY_STARTS = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", b"\x80\x03\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the archive; ``count`` is what the pickle says, which reading checks."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """An opened file; ``root`` is the saved value, its tensors :class:`StoredTensor`."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, root: Any, name: str) -> None:
        self._archive, self._prefix = archive, prefix
        self.root, self.name = root, name

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor, ``float32`` on the CPU.

        Raises:
            InputError: its bytes are missing, damaged, or fewer than the file says, or it holds no
                floating-point numbers.
        """
        storage = stored.storage
        if not storage.dtype.is_floating_point:
            raise InputError(f"{self.name}: a weight is of type {storage.dtype}; weights are floating-point")
        data = _read_entry(self._archive, f"{self._prefix}data/{storage.key}", self.name)
        if len(data) != storage.count * storage.dtype.itemsize:
            raise InputError(
                f"{self.name}: a tensor is said to hold {storage.count} numbers and has {len(data)} bytes; "
                "the file is damaged"
            )
        if not data:
            raise InputError(f"{self.name}: a weight is empty")
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(stored.shape, stored.strides, stored.offset).float().contiguous()


@contextmanager
def open_torch_file(source: Path | IO[bytes], name: str) -> Iterator[TorchFile]:
    """Open a file that ``torch.save`` wrote (the zip format, the default since torch 1.6); nothing in it runs.

    Args:
        source: the file, or its content.
        name: names it in errors.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    _check_start(source, name)
    try:
        archive = zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise InputError(f"{name}: is cut off or damaged ({error}); copy it again") from error
    with archive:
        names = archive.namelist()
        pickles = [n for n in names if n.count("/") == 1 and n.endswith(f"/{_PICKLE}")]
        if len(pickles) != 1:
            raise InputError(f"{name}: is a zip archive, but not one of torch.save")
        prefix = pickles[0].removesuffix(_PICKLE)
        if f"{prefix}constants.pkl" in names:
            raise InputError(f"{name}: is a TorchScript file; the importer reads checkpoints and saved nets")
        order = f"{prefix}byteorder"
        if order in names and _read_entry(archive, order, name) != b"little":
            raise InputError(f"{name}: was written on a big-endian machine, which is not supported")
        root = read_pickle(_read_entry(archive, pickles[0], name), _KNOWN, _storage, name)
        yield TorchFile(archive, prefix, root, name)


def _check_start(source: Path | IO[bytes], name: str) -> None:
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                start = file.read(16)
        else:
            start = source.read(16)
            source.seek(0)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if start.startswith(_ZIP_START):
        return
    if start.startswith(_LEGACY_STARTS):
        raise InputError(
            f"{name}: is of torch's format before 1.6, which is not supported; load and save it again with the "
            "torch that wrote it"
        )
    if not start:
        raise InputError(f"{name}: is empty (0 bytes)")
    raise InputError(f"{name}: was not written by torch.save (its first bytes are {start[:4]!r})")


def _read_entry(archive: zipfile.ZipFile, entry: str, name: str) -> bytes:
    try:
        info = archive.getinfo(entry)
        # torch.save never compresses, so an entry cannot grow beyond the file.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise InputError(f"{name}: is compressed or encrypted, which torch.save never does")
        if info.file_size != info.compress_size or info.header_offset + info.file_size > archive.start_dir:
            raise InputError(
                f"{name}: {entry} is said to be larger than the file has room for; it is damaged"
            )
        return archive.read(info)
    except InputError:
        raise
    except _ZIP_ERRORS as error:
        raise InputError(f"{name}: {entry} is missing or damaged ({error}); copy it again") from error


def _storage(args: tuple[Any, ...]) -> Storage:
    """The persistent id of a storage: ('storage', type, key, device, count)."""
    match args:
        case (("storage", Global(module="torch", name=kind), str(key), str(), int(count)),) if (
            kind in _DTYPES
        ):
            if count < 0 or not key.isalnum():
                raise Malformed("a storage's name or size is not possible")
            return Storage(_DTYPES[kind], key, count)
    raise Malformed("a storage is of an unknown kind")


def _tensor(args: tuple[Any, ...]) -> StoredTensor:
    match args:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            numbers = (offset, *shape, *strides)
            if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
                raise Malformed("a tensor's shape is not possible")
            last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            # No tensor may reach beyond its storage, or grow by counting a number twice.
            if math.prod(shape) > storage.count or last >= storage.count:
                raise Malformed("a tensor is larger than its storage")
            return StoredTensor(storage, offset, shape, strides)
    raise Malformed("a tensor is of an unknown kind")


def _parameter(args: tuple[Any, ...]) -> StoredTensor:
    if not args or not isinstance(args[0], StoredTensor):
        raise Malformed("a parameter holds no tensor")
    return args[0]


_KNOWN: dict[Global, Build] = {
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
