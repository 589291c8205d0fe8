"""FlashAttention's Triton kernels: run in Triton's interpreter and compiled for a GPU that need not be there; on CUDA run as they are.

python tests/model/test_flash_triton.py float16      the interpreter's part, one line of JSON
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from daybreak.model import flash
from daybreak.model.attention import KERNELS, plain

HOME = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# (T, S, D, band): a corner of one tile, several tiles with some left over, heads that are no power of two, a cache, bands.
TINY = [(7, 7, 16, None), (50, 50, 24, None), (50, 50, 16, 17), (5, 45, 16, None), (20, 70, 16, 23), (1, 33, 8, None)]


def errors(T, S, D, band, dtype, device="cpu"):
    """Relative errors to fp64 of the output and the gradients of queries, keys and values, which are views into a projection."""
    draw = torch.Generator(device).manual_seed(T * 1000 + S)
    qkv = torch.randn(2, S, 3, 2, D, device=device, dtype=torch.float64, generator=draw).to(dtype)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
    upstream = torch.randn(2, T, 2 * D, device=device, dtype=torch.float64, generator=draw).to(dtype).view(2, T, 2, D).transpose(1, 2)
    results = []
    for kernel, wide in ((KERNELS["daybreak"], dtype), (plain, torch.float64)):
        inputs = [each.to(wide).requires_grad_() for each in (queries[:, :, S - T :].detach(), keys.detach(), values.detach())]
        out = kernel(*inputs, 0.0, band)
        results.append([out.detach(), *torch.autograd.grad(out, inputs, upstream.to(wide))])
    return [float((ours.double() - exact).norm() / exact.norm()) for ours, exact in zip(*results, strict=True)]


def interpret(dtype):
    """In a process with TRITON_INTERPRET=1: the errors of every tiny case. In the other dtype it has tiles of the other form."""
    import numpy as np
    import triton

    if triton.__version__ < "3.7":
        try:
            int(np.ones(1))
        except TypeError:
            return {"skip": f"Triton {triton.__version__}'s interpreter does not work with NumPy {np.__version__}"}
    from daybreak.model import flash_triton

    flash.triton_serves = lambda queries: queries.dtype == dtype
    tiles = (flash_triton.Tile(16, 32, 4, 1), flash_triton.Tile(32, 16, 4, 1))
    found = {}
    for number, case in enumerate(TINY):
        tile = tiles[(number + (dtype == torch.float16)) % 2]
        flash_triton.CANDIDATES = dict.fromkeys(flash_triton.CANDIDATES, (tile,))
        found[f"{case} in {tile[:2]}"] = errors(*case, dtype)
    return found


def in_a_process(arguments, **environment):
    path = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float16", 1e-3)])
def test_in_the_interpreter_the_kernels_are_the_plain_one_with_its_gradients(dtype, limit):
    """Not in bf16, whose products the interpreter gets wrong."""
    found = in_a_process([__file__, dtype], TRITON_INTERPRET="1")
    if "skip" in found:
        pytest.skip(found["skip"])
    assert len(found) == len(TINY)
    assert {case: came for case, came in found.items() if not max(came) < limit} == {}


COMPILE = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from daybreak.model import flash_triton as ours

shared = {}
for name in ("forward", "dqueries", "dkeys"):
    kernel, tile = getattr(ours, f"_{name}_kernel"), ours.CANDIDATES[name, 64, True][0]
    constants = {"D": 64, "WIDE": 64, "Q": tile.queries, "K": tile.keys, "PRECISION": "ieee", "BOTTOM": ours.LOWEST}
    types, aligned, fixed = {}, {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            types[argument], fixed[place,] = "constexpr", constants[argument]
        elif argument in ("H", "T", "S", "band", "scale"):
            types[argument] = "fp32" if argument == "scale" else "i32"
        else:
            types[argument] = "i32" if argument[1] == "_" else "*fp32" if argument in ("logsumexp", "delta") else "*bf16"
            aligned[place,] = [["tt.divisibility", 16]]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    made = triton.compile(ASTSource(kernel, types, fixed, aligned), target=GPUTarget("cuda", 90, 32), options=options)
    shared[name] = made.metadata.shared if "wgmma" in made.asm["ptx"] and made.asm["cubin"] else None
print(json.dumps(shared))
"""


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    """In bf16 for Hopper, whose matrix units they must use and whose 227 KiB of shared memory for a block they must fit."""
    shared = in_a_process(["-c", COMPILE], TRITON_CACHE_DIR=str(tmp_path))
    assert sorted(shared) == ["dkeys", "dqueries", "forward"]
    assert all(taken and taken <= 227 * 1024 for taken in shared.values()), shared


@needs_triton
@needs_cuda
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(
    ("T", "S", "D", "band"),
    [*TINY, (1, 1, 64, None), (1000, 1000, 64, None), (512, 512, 80, 100), (300, 300, 128, None), (65, 700, 64, 129), (1, 999, 64, None)],
)
def test_on_cuda_the_kernels_are_the_plain_one_with_its_gradients(T, S, D, band, dtype, limit):
    if (T, S) == (1, 1):  # one key: no gradient reaches the scores, and nothing is to be divided by
        queries, keys, values = (torch.randn(2, 3, 1, D, device="cuda", dtype=dtype) for _ in range(3))
        torch.testing.assert_close(KERNELS["daybreak"](queries, keys, values, 0.0, None), values)
    else:
        assert max(errors(T, S, D, band, dtype, "cuda")) < limit


@needs_triton
@needs_cuda
def test_on_cuda_the_same_inputs_give_the_same_bits():
    queries, keys, values = torch.randn(2, 500, 3, 4, 64, device="cuda", dtype=torch.bfloat16).permute(2, 0, 3, 1, 4)
    inputs = [each.detach().requires_grad_() for each in (queries, keys, values)]
    first, second = (torch.autograd.grad(flash.attention(*inputs).square().sum(), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(interpret(getattr(torch, sys.argv[1]))))
