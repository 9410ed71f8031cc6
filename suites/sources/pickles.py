"""Read arrays from untrusted pickles without executing anything in them.

A pickle is a program, which `pickle.load` runs with the reader's rights. Here it may only call the stand-ins below, which
record what it says about an array; anything else is refused before it runs. NumPy's own reconstruction is not called
either, as it is not hardened against hostile input.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pudnet_bench.suites.sources.catalog import SourceError

_PLAIN = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})


def _bytes(raw: bytes | str) -> bytes:
    # Python 2's byte strings arrive as text, because the pickle is read as latin-1.
    return raw.encode("latin-1") if isinstance(raw, str) else raw


class _Dtype:
    """`numpy.dtype(code, align, copy)`, numbers only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in _PLAIN:
            raise pickle.UnpicklingError(f"arrays of dtype {code!r} are not supported")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """`numpy._reconstruct(...)` followed by `ndarray.__setstate__` (protocols up to 4)."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.value = np.frombuffer(_bytes(raw), dtype.dtype).reshape(shape, order="F" if fortran_order else "C")


class _Buffer(_Array):
    """`numpy._frombuffer(raw, dtype, shape, order)` (protocol 5)."""

    def __init__(self, raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        self.value = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


class _Scalar:
    """`numpy.scalar(dtype, raw)`."""

    def __init__(self, dtype: _Dtype, raw: bytes | str) -> None:
        self.value = np.frombuffer(_bytes(raw), dtype.dtype)[0].item()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a number has no state")


class _Latin1(bytes):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes with protocol 2."""

    def __new__(cls, text: str, encoding: str = "latin1") -> _Latin1:
        return super().__new__(cls, text.encode("latin-1"))

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _Latin1,
} | {
    (f"numpy.{core}.{name}", function): stand_in
    for core in ("core", "_core")
    for name, function, stand_in in (
        ("multiarray", "_reconstruct", _Array), ("multiarray", "scalar", _Scalar), ("numeric", "_frombuffer", _Buffer),
    )
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array") from None


def read_pickle(path: Path) -> Any:
    """Return the dictionaries, lists, text, numbers and NumPy arrays of a pickle, without executing anything in it.

    Raises SourceError if the file is damaged or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _plain(_ArrayUnpickler(file, encoding="latin-1").load())
    except Exception as error:  # a damaged pickle can fail in any way
        raise SourceError(
            f"{path} is refused ({error or type(error).__name__}): a pickle may hold arrays, numbers and names only; "
            "download the file again from its origin, or convert it to an image folder"
        ) from error


def _plain(value: Any) -> Any:
    """Return the value with stand-ins replaced by their arrays and numbers."""
    if isinstance(value, _Array | _Scalar):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
