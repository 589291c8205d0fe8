"""Work on whole matrices, done once among many processes: each does a share of them, and all get the results.

The matrices are dealt out, the most expensive first, each to the process that has the least to do. Copies of a model have every matrix
and gather the results. Shards of it send a matrix's rows to the process that computes it, and get their rows of the result back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

Columns = tuple[Tensor, ...]
"""What belongs to one matrix: its entries (R, C), and perhaps more of as many rows; of a divided matrix this process's rows."""
Work = Callable[[list[int], list[Columns]], list[Columns]]
"""Computes the matrices of these numbers, whole; the results have the shapes and dtypes of what they are made from."""


class Sharing(Protocol):
    """How the processes of a layout share the work."""

    def __call__(self, held: Sequence[Columns], rows: Sequence[int], work: Work) -> list[Columns]:
        """What this process is to hold of the results; it holds `held` of matrices that have `rows` rows when whole."""


class Everything:
    """One process does all."""

    def __call__(self, held: Sequence[Columns], rows: Sequence[int], work: Work) -> list[Columns]:
        """All of it."""
        return work(list(range(len(held))), list(held))


class AmongCopies:
    """Every process has every matrix."""

    def __call__(self, held: Sequence[Columns], rows: Sequence[int], work: Work) -> list[Columns]:
        """Computes this process's matrices and gathers all."""
        size, rank = dist.get_world_size(), dist.get_rank()
        theirs = _dealt(held, rows, size)
        done = work(theirs[rank], [held[number] for number in theirs[rank]])
        columns = []
        for column, like in enumerate(held[0]):
            shapes = [[held[number][column].shape for number in numbers] for numbers in theirs]
            length = max(sum(shape.numel() for shape in one) for one in shapes)
            packed = _packed([part[column] for part in done], like, length)
            gathered = [torch.empty_like(packed) for _ in range(size)]
            dist.all_gather(gathered, packed)
            columns.append(_by_number(theirs, [_unpacked(*pair) for pair in zip(gathered, shapes, strict=True)]))
        return list(zip(*columns, strict=True))


class AmongShards:
    """Every process of a group has some rows of every matrix, divided as torch.chunk does."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.size, self.rank = group, group.size(), dist.get_rank(group)

    def __call__(self, held: Sequence[Columns], rows: Sequence[int], work: Work) -> list[Columns]:
        """Gathers this process's matrices, computes them, and scatters their rows."""
        theirs = _dealt(held, rows, self.size)
        mine = theirs[self.rank]
        shares = [_shares(count, self.size) for count in rows]  # by matrix, then by process
        whole = []
        for column in range(len(held[0])):
            sent = [[held[number][column] for number in numbers] for numbers in theirs]
            shapes = [[torch.Size((shares[number][other], held[number][column].shape[1])) for number in mine] for other in range(self.size)]
            whole.append([torch.cat(pieces) for pieces in zip(*self._exchange(sent, shapes, held[0][column]), strict=True)])
        done = work(mine, list(zip(*whole, strict=True)))
        columns = []
        for column in range(len(held[0])):
            divided = [torch.split(part[column], shares[number]) for number, part in zip(mine, done, strict=True)]
            sent = [[pieces[other] for pieces in divided] for other in range(self.size)]
            shapes = [[held[number][column].shape for number in numbers] for numbers in theirs]
            columns.append(_by_number(theirs, self._exchange(sent, shapes, held[0][column])))
        return list(zip(*columns, strict=True))

    def _exchange(self, sent: list[list[Tensor]], shapes: list[list[torch.Size]], like: Tensor) -> list[list[Tensor]]:
        """Sends each process its tensors; returns what each of them sent, in these shapes."""
        going = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
        coming = [sum(shape.numel() for shape in one) for one in shapes]
        packed, received = _packed([tensor for tensors in sent for tensor in tensors], like, sum(going)), like.new_empty(sum(coming))
        dist.all_to_all_single(received, packed, coming, going, group=self.group)
        return [_unpacked(*pair) for pair in zip(torch.split(received, coming), shapes, strict=True)]


def sharing(parameter: Tensor, copies: int = 1) -> Sharing:
    """How the work on a model with such parameters is shared: among those who divide it, else among its copies."""
    whole = AmongCopies() if copies > 1 else Everything()
    if type(parameter) in (Tensor, torch.nn.Parameter):
        return whole
    from torch.distributed.tensor import DTensor, Shard  # takes longer than all the rest, and only divided runs need it

    if not isinstance(parameter, DTensor):
        return whole
    [axis] = [axis for axis, placement in enumerate(parameter.placements) if isinstance(placement, Shard)]
    return AmongShards(parameter.device_mesh.get_group(axis))


def deal(costs: Sequence[int], hands: int) -> list[list[int]]:
    """The numbers of what each of `hands` gets: the most expensive first, each to the one with the least so far."""
    held, dealt = [0] * hands, [[] for _ in range(hands)]  # type: list[int], list[list[int]]
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = held.index(min(held))
        held[least] += costs[number]
        dealt[least].append(number)
    return dealt


def _dealt(held: Sequence[Columns], rows: Sequence[int], size: int) -> list[list[int]]:
    """By process: its matrices. A product of two sides of the smaller length, at the cost of the larger, is what takes the time."""
    widths = [columns[0].shape[1] for columns in held]
    return deal([count * width * min(count, width) for count, width in zip(rows, widths, strict=True)], size)


def _shares(rows: int, size: int) -> list[int]:
    """How many rows each process has: the last ones may have fewer, or none."""
    most = -(-rows // size)
    return [max(0, min(most, rows - most * rank)) for rank in range(size)]


def _packed(tensors: Sequence[Tensor], like: Tensor, length: int) -> Tensor:
    packed = like.new_zeros(length)
    torch.cat([like.new_empty(0), *(tensor.reshape(-1) for tensor in tensors)], out=packed[: sum(tensor.numel() for tensor in tensors)])
    return packed


def _unpacked(packed: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    sizes = [shape.numel() for shape in shapes]
    pieces = torch.split(packed[: sum(sizes)], sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _by_number(numbers: list[list[int]], tensors: list[list[Tensor]]) -> list[Tensor]:
    """What each process has given of the matrices that it was dealt, in the order of the matrices."""
    found = {number: tensor for pair in zip(numbers, tensors, strict=True) for number, tensor in zip(*pair, strict=True)}
    return [found[number] for number in sorted(found)]
