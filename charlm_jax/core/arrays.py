"""Arrays in NumPy's file format, checked before anything is allocated."""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LONGEST_HEADER = 4096  # bytes; those of arrays with a few axes have 128


def parse_npy(data: bytes, *, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return the array that a .npy file holds.

    Args:
      data: content of the file.
      shape: shape that the array must have.
      dtype: dtype that it must have. NumPy saves bfloat16 as untyped bytes, which are accepted.

    Raises:
      ValueError: the file holds something else.
    """
    wanted = np.dtype(dtype)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"it has version {version} of NumPy's format")
        found_shape, is_fortran, found = np.lib.format.read_array_header_1_0(
            file, max_header_size=_LONGEST_HEADER
        )
    except Exception as error:  # NumPy parses the header as Python; it may be anything
        raise ValueError(f"it has no valid header: {error}") from error
    is_wanted = found == wanted or (wanted.kind == "V" and found == f"V{wanted.itemsize}")
    if tuple(found_shape) != tuple(shape) or not is_wanted or found.hasobject:
        raise ValueError(f"it is {found} of shape {found_shape}")
    values = memoryview(data)[file.tell() :]
    count = math.prod(shape)
    if len(values) != count * wanted.itemsize:
        raise ValueError(f"it has {len(values)} bytes of values")
    array = np.frombuffer(values, wanted, count=count)
    return array.reshape(tuple(shape), order="F" if is_fortran else "C").copy()


def parse_npz(data: bytes, schema: Mapping[str, tuple[Sequence[int], Any]]) -> dict[str, Any]:
    """Return arrays of an .npz file that `numpy.savez` wrote.

    Args:
      data: content of the file.
      schema: shape and dtype of each array, by name.

    Raises:
      ValueError: an array is missing, compressed, damaged, or of another shape or dtype; the
        message names the first such array.
    """
    arrays = {}
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # a damaged archive raises many types
        raise ValueError("it is not an .npz file") from error
    with archive:
        for name, (shape, dtype) in schema.items():
            try:
                member = archive.getinfo(f"{name}.npy")
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                    raise ValueError("it is compressed")
                arrays[name] = parse_npy(archive.read(member), shape=shape, dtype=dtype)
            except KeyError:
                raise ValueError(f"{name} is missing") from None
            except Exception as error:
                raise ValueError(f"{name} is damaged: {error}") from error
    return arrays
