"""The kernels, compiled for this processor by the C compiler that the machine has.

It takes two seconds, once: what comes out is kept in our cache, under a name that tells the source, the compiler's options and what the
processor can do. Where there is no compiler, or it fails, `library()` raises `Unavailable` with the reason, and torch's operations do the
work. `$CC` names the compiler; DAYBREAK_NATIVE=0 leaves these kernels out.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from daybreak import files

SOURCES = tuple(Path(__file__).with_name(name) for name in ("native.h", "linear.c", "block.c"))

OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native")
"""The one or the other, as compilers and processors have it."""


class Unavailable(RuntimeError):
    """There are no kernels of ours on this machine; the message says why."""


class Layer(ctypes.Structure):
    """`layer` in native.h. Whoever makes one sees to it that the memory lives as long."""

    _fields_ = (
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("affine", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


def library() -> Any:
    """The kernels, compiled and loaded. Raises Unavailable."""
    if os.environ.get("DAYBREAK_NATIVE") == "0":
        raise Unavailable("DAYBREAK_NATIVE=0 leaves them out")
    return _opened(os.environ.get("CC") or "cc", files.cache_folder() / "native")


@cache
def _opened(compiler: str, folder: Path) -> Any:
    openmp = _openmp()
    tries = [(machine, *more) for more in ((("-fopenmp",), ()) if openmp else ((),)) for machine in FOR_THIS_PROCESSOR]
    for options in tries:
        path = folder / f"{_name(options)}.so"
        if path.is_file():
            break
    else:
        path = _compiled(compiler, tries, folder)
    try:
        return loaded(path)
    except OSError as error:
        raise Unavailable(f"{path}: cannot be loaded ({error})") from None


def _compiled(compiler: str, tries: list[tuple[str, ...]], folder: Path) -> Path:
    command = shutil.which(compiler)
    if command is None:
        raise Unavailable(f"no C compiler: {compiler} is not on the path; install gcc or clang, or name one in $CC")
    said = ""
    for options in tries:
        try:
            path = folder / f"{_name(options)}.so"
            files.write_bytes(path, compiled(command, options))
            return path
        except Unavailable as error:
            said = said or str(error)
        except OSError as error:
            raise Unavailable(f"{folder}: cannot be written ({error})") from None
    raise Unavailable(said)


def compiled(command: str, options: tuple[str, ...]) -> bytes:
    """The shared library that a compiler makes of the sources. Raises Unavailable with what it said."""
    with tempfile.TemporaryDirectory() as name:
        whole, parts = Path(name) / "native.so", []
        steps: list[list[str]] = []
        for source in SOURCES:
            if source.suffix == ".c":
                parts.append(str(Path(name) / f"{source.stem}.o"))
                steps.append([*OPTIONS, *options, "-c", str(source), "-o", parts[-1]])
        # Linked apart, without OpenMP's own library: torch has brought one already, and two in a process disturb each other.
        for step in [*steps, ["-shared", *parts, "-o", str(whole)]]:
            try:
                done = subprocess.run([command, *step], capture_output=True, text=True, errors="replace", timeout=120, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{command} failed ({error})") from None
            if done.returncode:
                raise Unavailable(f"{command} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[0]}")
        return whole.read_bytes()


def loaded(path: Path) -> Any:
    """What `compiled` made, from where it was written. Raises OSError."""
    found = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.lanes.restype = found.panel_width.restype = number
    for name in ("fp16w_linear", "int8_linear", "int4_linear"):
        getattr(found, name).argtypes = (pointer, pointer, number, pointer, ctypes.c_int)
    found.block_forward.argtypes = (pointer, pointer, pointer, pointer, number, pointer, ctypes.c_int)
    return found


def _openmp() -> bool:
    """Whether torch's own OpenMP is there for us, too: then one set of threads serves both, as many as torch is told to take."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    for path in [*map(str, bundled), "libgomp.so.1"]:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def _name(options: tuple[str, ...]) -> str:
    """Of what these options make of the source on a processor like this one."""
    told = [
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        *OPTIONS,
        *options,
        platform.system(),
        platform.machine(),
        _processor(),
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def _processor() -> str:
    """What the processor can do, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
