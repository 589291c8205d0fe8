"""Reading figures late: everything comes, in order, one behind where the device is asynchronous."""

import pytest
import torch

from daybreak.training.late import Late


def figures(step):
    return torch.tensor([step, step / 3])


def as_told(step):
    return step, figures(step).tolist()


def test_a_cpu_tells_at_once():
    late = Late(torch.device("cpu"))
    assert [late.put(step, figures(step)) for step in range(3)] == [[as_told(step)] for step in range(3)]
    assert late.rest() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_one_step_late():
    late, device = Late(torch.device("cuda")), torch.device("cuda")
    told = [late.put(step, figures(step).to(device)) for step in range(4)]
    assert told == [[], [as_told(0)], [as_told(1)], [as_told(2)]]
    assert late.rest() == [as_told(3)]
    assert late.rest() == []
    assert late.put(9, figures(9).to(device)) == []
    assert late.rest() == [as_told(9)]
