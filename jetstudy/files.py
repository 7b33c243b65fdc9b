"""Files that appear whole or not at all, their digests, and random numbers by name."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to: renamed to it at the end, removed if the body raises."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as indented JSON; NaN and infinity raise ValueError, for JSON has none."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The content of a JSON file; ValueError, naming the file, if it is none."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path}: not JSON ({error})") from error


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_after(content: object) -> str:
    """Eight digits for the name of a file that depends on ``content``, anything that JSON holds: others for another."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def random_seed(name: str) -> int:
    """A seed for the random numbers of what is called so: another for every name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def write_arrays(path: Path, *, checked: bool = False, **arrays: np.ndarray) -> None:
    """Write ``arrays`` as the data sets of an HDF5 file, if ``checked`` with checksums that reading looks at."""
    # The format that others can read best has no checksums of shapes and types, whatever is asked for.
    version = "latest" if checked else None
    with replacing(path) as unfinished, h5py.File(unfinished, "w", libver=version) as file:
        for name, values in arrays.items():
            if checked:
                file.create_dataset(name, data=values, fletcher32=True)
            else:
                file[name] = values


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read; OSError, naming it, if it or what the body reads of it is not complete."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # what h5py makes of a damaged header differs
        raise OSError(f"{path}: not a complete HDF5 file ({error})") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The data sets of an HDF5 file; OSError, naming the file, if it is not complete, ValueError if it holds
    anything else.
    """
    with opened(path) as file:
        for name in file:
            if not isinstance(file.get(name), h5py.Dataset) or file[name].shape is None:
                raise ValueError(f"{path}: {name} is not a data set with values")
        return {name: values[()] for name, values in file.items()}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; ValueError, naming the file, if it is not complete."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from error


def prefixed(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Those of ``tensors`` whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def in_chunks(
    folder: Path, n: int, size: int, compute: Callable[[int, int], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of n rows, made by ``compute(start, stop)`` in chunks of ``size`` rows and joined.

    Each chunk is written to ``folder`` as soon as it is there, and one that lies there already is read instead of made
    again, unless it is damaged: name the folder after all that the arrays depend on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        path = folder / f"{start}-{stop}.h5"
        try:
            chunk = read_arrays(path)
        except Exception:  # not there, or damaged, whatever reading makes of that
            write_arrays(path, checked=True, **compute(start, stop))
            chunk = read_arrays(path)
        chunks.append(chunk)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
