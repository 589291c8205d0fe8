"""The kernels, compiled for this processor by the C compiler that the machine has.

It takes three seconds, once: what comes out is kept in our cache, under a name that tells the source, the compiler's options and what the
processor can do. Where there is no compiler, or it fails, `library()` raises `Unavailable` with the reason, and torch's operations do the
work. `$CC` names the compiler; DAYBREAK_NATIVE=0 leaves these kernels out.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from daybreak import files
from daybreak.compiling import is_torn

SOURCES = tuple(Path(__file__).with_name(name) for name in ("linear.c", "block.c"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("native.h", "amx.h"))

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
    found = _opened((os.environ.get("CC") or "").strip() or "cc", files.cache_folder() / "native")
    if isinstance(found, Unavailable):
        raise found
    return found


@cache
def _opened(compiler: str, folder: Path) -> Any:
    """Tried once in a process: the kernels, or why there are none."""
    try:
        return loaded(_kept(compiler, folder))
    except Unavailable as problem:
        return problem
    except OSError as error:
        return Unavailable(f"they cannot be loaded ({error})")


def _kept(compiler: str, folder: Path) -> Path:
    """Where the compiled kernels lie, compiled now where they do not yet."""
    with_threads = [("-fopenmp",), ()] if _openmp() else [()]
    tries = [(machine, *more) for more in with_threads for machine in FOR_THIS_PROCESSOR]
    paths = (folder / f"{_name(options)}.so" for options in tries)
    if (path := next((path for path in paths if path.is_file() and not is_torn(path)), None)) is not None:
        return path
    try:
        command = shlex.split(compiler)  # often of several words: ccache gcc
    except ValueError as error:
        raise Unavailable(f"$CC: {compiler} is no command ({error})") from None
    if shutil.which(command[0]) is None:
        raise Unavailable(f"no C compiler: {command[0]} is not on the path; install gcc or clang, or name one in $CC")
    problems = []
    for options in tries:
        try:
            content = compiled(command, options)
        except Unavailable as problem:
            problems.append(problem)
            continue
        path = folder / f"{_name(options)}.so"
        try:
            files.write_bytes(path, content)
        except OSError as error:
            raise Unavailable(f"{path}: cannot be written ({error.strerror})") from None
        return path
    raise problems[0]


def compiled(command: Sequence[str], options: tuple[str, ...]) -> bytes:
    """The shared library that a compiler makes of the sources, tried. Raises Unavailable with what it said."""
    with tempfile.TemporaryDirectory() as name:
        whole, parts = f"{name}/native.so", [f"{name}/{source.stem}.o" for source in SOURCES]
        compiling = [[*OPTIONS, *options, "-c", str(source), "-o", part] for source, part in zip(SOURCES, parts, strict=True)]
        # Linked apart, without OpenMP's own library: torch has brought one already, and two in a process disturb each other.
        for step in [*compiling, ["-shared", *parts, "-o", whole]]:
            try:
                done = subprocess.run([*command, *step], capture_output=True, text=True, errors="replace", timeout=120, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{shlex.join(command)} failed ({error})") from None
            if done.returncode:
                raise Unavailable(f"{shlex.join(command)} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[0]}")
        try:
            loaded(Path(whole))  # Clang's OpenMP is not torch's, which shows only here
        except OSError as error:
            raise Unavailable(f"what {shlex.join(command)} made cannot be loaded ({error})") from None
        return Path(whole).read_bytes()


def loaded(path: Path) -> Any:
    """What `compiled` made, from where it was written. Raises OSError."""
    found = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.lanes.restype = found.panel_width.restype = number
    for name in ("fp16w_linear", "bf16_linear", "int8_linear", "int4_linear"):
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
    sources = [path.read_text(encoding="utf-8") for path in (*HEADERS, *SOURCES)]
    told = "\n".join([*sources, *OPTIONS, *options, platform.system(), platform.machine(), _processor()])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _processor() -> str:
    """What the processor can do, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
