"""The accelerators that we know: how fast, how much memory, what an hour costs. A table, and how people and drivers name its rows.

Peaks are the makers' dense figures for bf16 with fp32 sums (fp16 on V100 and T4, which have no bf16); datasheets often print the double,
for sparse matrices. Memory is the maker's figure. Prices are assumptions: dollars for an hour of one device rented on demand, rounded from
what several renters listed early in 2026. They differ by half between renters and fall with time, so whoever knows his own says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from daybreak.config import closest


@dataclass(frozen=True)
class Device:
    """One kind of accelerator."""

    names: tuple[str, ...]
    """What people type, the usual name first; case, spaces and hyphens do not count."""
    reported: str
    """A regular expression for its name as the driver tells it."""
    peak_flops: float
    """Dense 16-bit operations a second."""
    memory_bytes: int
    dollars_per_hour: float
    bf16: bool = True
    """Whether its matrix units know bf16; without, training takes fp16."""

    @property
    def name(self) -> str:
        """The usual name."""
        return self.names[0]


def _device(names: str, reported: str, teraflops: float, gigabytes: int, dollars_per_hour: float, bf16: bool = True) -> Device:
    return Device(tuple(names.split()), reported, teraflops * 1e12, gigabytes * 10**9, dollars_per_hour, bf16)


# The first row whose expression is found in a driver's name counts.
DEVICES: tuple[Device, ...] = (
    _device("b200", "B200", 2250, 180, 6.00),
    _device("h200-nvl", "H200 NVL", 835, 141, 3.40),
    _device("h200 h200-sxm", "H200", 989, 141, 3.60),
    _device("h100-pcie", "H100 PCIe", 756, 80, 2.00),
    _device("h100-nvl", "H100 NVL", 835, 94, 2.60),
    _device("h100 h100-sxm h100-80gb", "H100", 989, 80, 2.75),
    _device("a100-40gb", "A100.*40GB", 312, 40, 1.20),
    _device("a100 a100-80gb a100-sxm a100-pcie", "A100", 312, 80, 1.50),
    _device("a10g", "A10G", 70, 24, 1.00),  # made for AWS alone, g5 instances; a little over half of an A10's tensor speed
    _device("a10", "A10", 125, 24, 0.75),
    _device("l40s", "L40S", 362, 48, 0.85),
    _device("l40", "L40", 181, 48, 0.70),
    _device("l4", "L4", 121, 24, 0.45),
    _device("rtx4090 4090", "RTX 4090", 165, 24, 0.40),
    _device("rtx3090 3090", "RTX 3090", 71, 24, 0.25),
    _device("v100 v100-16gb", "V100.*16GB", 125, 16, 0.40, bf16=False),
    _device("v100-32gb", "V100", 125, 32, 0.55, bf16=False),
    _device("t4", "T4", 65, 16, 0.35, bf16=False),
)


def reported(name: str) -> Device | None:
    """The device that a driver's name such as "NVIDIA A100-SXM4-80GB" belongs to; None for one we do not know.

    A slice of a device, and one of a family that bears a known name with something to it, are others: nothing is guessed.
    """
    if re.search(r"\b(MIG|Ti|Laptop|Max-Q|D)\b", name):
        return None
    return next((device for device in DEVICES if re.search(rf"\b{device.reported}\b", name)), None)


def parse(written: str) -> tuple[int, Device]:
    """How many of which device `8xh100` or `h100` are. Raises ValueError with the nearest name for one that is not in the table."""
    known = {_squeezed(name): device for device in DEVICES for name in device.names}
    match = re.fullmatch(r"(?:([+-]?\d+)\s*[x×*]\s*)?(.+)", written.strip(), re.IGNORECASE)
    if match is None or (device := known.get(_squeezed(match[2]))) is None:
        name = match[2] if match else ""
        hint = closest(_squeezed(name), known).replace(_squeezed(name), name)
        known_names = ", ".join(device.name for device in DEVICES)
        raise ValueError(
            f"wanted a number and a device such as 8xh100, came '{written}'{hint}{' There' if hint else '; there'} are {known_names}"
        )
    count = int(match[1][:12]) if match[1] else 1
    if not 1 <= count <= 10**6:
        raise ValueError(f"wanted 1 to 1,000,000 devices, came {count:,}; write it as 8x{device.name}")
    return count, device


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
