"""The machine under the run: device, precision, threads, memory, seeds, rank, and its peak speed.

Nothing is guessed: a device that is not in the table of `devices.py` has no peak, and a share of peak is then "unknown".
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import random
import re
import sys
import time
from typing import Any, Literal

import torch

from daybreak import devices

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def choose_device(wanted: str = "auto", local_rank: int | None = None) -> torch.device:
    """The device to compute on: the one wanted, or the best there is; for one of several processes the one of its number.

    Raises ValueError if it is not there.
    """
    if wanted != "auto" and not is_device(wanted):
        raise ValueError(f"wanted auto, cpu, cuda, cuda:N or mps as the device, came '{wanted}'")
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    kind = available[0] if wanted == "auto" else wanted.partition(":")[0]
    if kind not in available:
        raise ValueError(f"wanted the device {wanted}, this machine has {', '.join(available)}; choose one of these or auto")
    device = torch.device(kind if wanted == "auto" else wanted)
    if device.type == "cuda" and local_rank is not None:
        if device.index is not None:
            raise ValueError(f"wanted auto, cpu or cuda, as each of several processes takes a device of its own; came {wanted}")
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"wanted the device {device}, this machine has cuda:0 to cuda:{count - 1}; choose one of these or auto")
    return device


def is_device(name: str) -> bool:
    """Whether a name is one of a device, there or not: cpu, mps, cuda, cuda:1."""
    return re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name) is not None


def choose_precision(device: torch.device, wanted: str = "auto") -> Precision:
    """The number format for matrix products that the device does really well.

    CPUs: bf16 where the processor has instructions for it (about twice as fast as fp32), fp32 elsewhere, where bf16 is emulated
    and slower. GPUs: bf16 from compute capability 8, fp16 with loss scaling before. Raises ValueError for what cannot work.
    """
    if wanted in ("fp32", "bf16"):
        return wanted  # type: ignore[return-value]
    if wanted in ("fp16", "tf32"):
        if device.type != "cuda":
            why = "for its loss scaling" if wanted == "fp16" else "as no other knows it"
            raise ValueError(f"wanted {wanted}, which needs a CUDA device {why}, came {device}; choose bf16, fp32 or auto")
        return wanted  # type: ignore[return-value]
    if device.type == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "fp32"


def use_precision(precision: Precision) -> None:
    """Lets products of fp32 matrices round their factors to tf32's 10 bits, or not; for the whole process, as torch has it."""
    wanted = "high" if precision == "tf32" else "highest"
    if torch.get_float32_matmul_precision() != wanted:
        torch.set_float32_matmul_precision(wanted)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX512-BF16, AMX or Arm's BF16), as the system reports its features."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            features = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    except OSError:
        return False
    return any(feature in features for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def prepare_cpu(threads: int | None = None) -> None:
    """Settles threads and memory for computing on a CPU.

    Large tensors are freed and allocated at every step. glibc gives such blocks back to the system each time, and the system
    clears every page again when it hands them out; keeping them makes a training step 1.4 times as fast.
    """
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    _ask_libc("mallopt", _M_MMAP_MAX, 0)
    _ask_libc("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)
    _ask_libc("mallopt", _M_TOP_PAD, 64 << 20)


class Company:
    """Who else computes on this machine's processors, from when this is made: what is timed beside others tells little."""

    def __init__(self) -> None:
        self._others, self._began = _others_seconds(), time.monotonic()

    def leaves_room(self) -> bool:
        """Whether this process had a processor for each of its threads all the while. True also where the system does not tell, or where
        it has been too short to tell: the system counts in hundredths of a second."""
        took, others = time.monotonic() - self._began, _others_seconds() - self._others
        return took < 0.1 or (os.cpu_count() or 1) - others / took > torch.get_num_threads() - 0.3


def _others_seconds() -> float:
    """Processor seconds that all but this process have taken since the machine began, the host's other guests too; 0 if it is not told."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, interrupts, softly, stolen = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + interrupts + softly + stolen) / os.sysconf("SC_CLK_TCK") - time.process_time()


def prepare_serving() -> None:
    """Settles memory for models that answer in threads of their own. To be called before there are any.

    glibc gives each thread a heap that hands what is freed back to the system, which clears every page again: at 32 texts at once a
    124M model in a thread wrote 0.6 times as fast as in the main one, and drawing their tokens took 4 times as long as need be. So all
    share one heap, and it keeps what it has up to 256 MB; weights (blocks from 32 MB on) are still given back.
    """
    _ask_libc("mallopt", _M_ARENA_MAX, 1)
    _ask_libc("mallopt", _M_TRIM_THRESHOLD, 256 << 20)
    _ask_libc("mallopt", _M_MMAP_THRESHOLD, 32 << 20)


def give_back() -> None:
    """Gives memory that is free again back to the system, where the C library would keep it for later: after what is done once."""
    _ask_libc("malloc_trim", 0)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8  # from malloc.h


def _ask_libc(function: str, *values: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*values)


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seeds every random generator that a run may draw from; in each process of a run otherwise, lest they drop out the same places."""
    if rank:
        seed = int.from_bytes(hashlib.sha256(f"{seed}:{rank}".encode()).digest()[:8], "little") >> 1
    random.seed(seed)
    torch.manual_seed(seed)


def peak_flops(device: torch.device) -> float | None:
    """The device's dense 16-bit peak in FLOP/s, or None where the table does not know it."""
    known = devices.reported(device_name(device)) if device.type == "cuda" else None
    return None if known is None else known.peak_flops


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """The most memory this process has used on the device so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left. torch has a class for it on GPUs only."""
    said = ("can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


def total_memory(device: torch.device) -> int | None:
    """All the memory that the device has, in bytes; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def free_memory(device: torch.device) -> int | None:
    """What of a GPU's memory nobody has taken yet, in bytes, what torch keeps of it for us included; None for other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def versions() -> dict[str, str]:
    """What the run stands on: Python, torch, the system."""
    return {"python": platform.python_version(), "torch": torch.__version__, "system": f"{platform.system()} {platform.machine()}"}


def facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Device, precision and versions, as the log and the report show them."""
    return {"device": device_name(device), "precision": precision, **versions()}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
