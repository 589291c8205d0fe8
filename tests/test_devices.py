"""The table of devices: found by what people type and by what drivers report, and by nothing that only looks like it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak import devices, machine


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
    ],
)
def test_what_drivers_report(reported: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = devices.reported(reported)
    assert found is not None
    assert found.name == name
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: reported)
    assert machine.peak_flops(torch.device("cuda")) == found.peak_flops


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA T400",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce GTX 1080",
    ],
)
def test_a_device_that_only_sounds_like_one_is_not_guessed(reported: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.reported(reported) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: reported)
    assert machine.peak_flops(torch.device("cuda")) is None


def test_a_cpu_has_no_peak() -> None:
    assert machine.peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("written", "count", "name"),
    [
        ("h100", 1, "h100"),
        ("8xh100", 8, "h100"),
        ("8 x H100", 8, "h100"),
        ("8*H100-SXM", 8, "h100"),
        ("1024xa100", 1024, "a100"),
        ("2xA100-80GB", 2, "a100"),
        ("1xa100_40gb", 1, "a100-40gb"),
        ("RTX 4090", 1, "rtx4090"),
        ("4x4090", 4, "rtx4090"),
        ("4090", 1, "rtx4090"),
    ],
)
def test_what_people_type(written: str, count: int, name: str) -> None:
    found, device = devices.parse(written)
    assert (found, device.name) == (count, name)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("8xh10", "wanted a number and a device such as 8xh100, came '8xh10'; did you mean h100? There are b200"),
        ("a1000", "did you mean a100?"),
        ("abacus", "came 'abacus'; there are b200"),
        ("", "came ''; there are"),
        ("8", "came '8'"),
        ("8x", "came '8x'"),
        ("xh100", "did you mean h100?"),
        ("1.5xh100", "came '1.5xh100'"),
        ("0xa100", "wanted 1 to 1,000,000 devices, came 0; write it as 8xa100"),
        ("-3xa100", "came -3"),
        ("9999999999999999999999xa100", "wanted 1 to 1,000,000 devices"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(written: str, told: str) -> None:
    with pytest.raises(ValueError) as problem:
        devices.parse(written)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


@given(written=st.text(max_size=20))
def test_no_text_breaks_it(written: str) -> None:
    with contextlib.suppress(ValueError):
        count, device = devices.parse(written)
        assert count >= 1
        assert device in devices.DEVICES


def test_the_table_is_sound() -> None:
    names = [name for device in devices.DEVICES for name in device.names]
    assert len(set(names)) == len(names)
    for device in devices.DEVICES:
        assert all(devices.parse(name) == (1, device) for name in device.names)
        assert 50e12 < device.peak_flops < 5e15
        assert 10**10 < device.memory_bytes < 10**12
        assert 0.1 < device.dollars_per_hour < 20
