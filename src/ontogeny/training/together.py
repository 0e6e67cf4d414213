"""One training run on several processes, as ``accelerate launch`` starts them: process 0 leads, the others join in.

Process 0 alone decides what is run and writes the store. The others wait until it calls them, build the same network
from the same files, and take their part of every batch. What decides how the loop goes on is agreed on by all.
Sharded (FSDP2), each process holds a part of every parameter, its gradient and its optimiser state, too.
"""

import copy
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from ontogeny.errors import InputError

LONG = timedelta(days=30)  # others wait for process 0 for as long as it extracts and measures


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is process 0; with several, once all are connected."""
    return count() == 1 or (_connected() is not None and os.environ["RANK"] == "0")


def sharding() -> bool:
    """Whether networks are spread over the processes: ``accelerate launch --use_fsdp`` says it so."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def accelerator() -> Any:
    """Accelerate's ``Accelerator``, which knows the device and the other processes."""
    from accelerate import Accelerator  # slow to import, and a rerun trains nothing
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # of torch, to users of Accelerate
    own = [InitProcessGroupKwargs(timeout=LONG), DistributedDataParallelKwargs(broadcast_buffers=False)]
    # Its own precision is one for a whole process; and unless told so, it leaves processes without a GPU alone.
    without_gpu = count() > 1 and not torch.accelerator.is_available()
    return Accelerator(cpu=without_gpu, mixed_precision="no", kwargs_handlers=own)


@functools.cache
def _connected() -> Any:
    """A group over which processes exchange objects and flags, wherever the tensors are."""
    accelerator()
    return torch.distributed.new_group(backend="gloo", timeout=LONG)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function on all processes at once; what it gives on process 0."""
    if count() > 1:
        torch.distributed.broadcast_object_list([(function, arguments)], group=_connected())
    return function(*arguments)


def follow() -> None:
    """What the other processes do: whatever process 0 calls, until it is gone."""
    while True:
        called: list[Any] = [None]
        try:
            torch.distributed.broadcast_object_list(called, group=_connected())
        except RuntimeError:  # process 0 has ended; it has said why
            return
        function, arguments = called[0]
        function(*arguments)


@contextmanager
def leader_first() -> Iterator[None]:
    """Process 0 does it, the others then: they find in the store what it has put there."""
    if count() > 1 and not leads():
        torch.distributed.barrier(_connected())
    yield
    if count() > 1 and leads():
        torch.distributed.barrier(_connected())


def agreed(value: Any) -> Any:
    """Process 0's value, for all."""
    if count() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, group=_connected())
    return values[0]


def anywhere(*flags: bool) -> list[bool]:
    """Each flag: whether some process has set it."""
    if count() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.uint8)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, _connected())
    return found.bool().tolist()


def own_part(batch: Any) -> Any:
    """This process's rows of a batch: equally many for each, so that the mean of means is the batch's mean."""
    from accelerate.utils import find_batch_size, slice_tensors

    if count() == 1:
        return batch
    rows, rest = divmod(find_batch_size(batch), count())
    if rest:
        raise InputError(
            f"a batch of {rows * count() + rest} can't be divided among {count()} processes: --set batch=…"
        )
    rank = int(os.environ["RANK"])
    return slice_tensors(batch, slice(rank * rows, (rank + 1) * rows))


def sharded(model: nn.Module) -> nn.Module:
    """The model itself; where networks are spread, a copy of it of which each process holds a part.

    Blocks are gathered one at a time, each when it is called, and the rest when the model is. Bases of subspaces and
    places of masks are whole everywhere.
    """
    if not sharding():
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator().device.type, (count(),))
    spread = copy.deepcopy(model)
    for part in (*_blocks(spread), spread):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return spread


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost entries of lists of modules: a transformer's layers."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


@torch.no_grad()
def gather(spread: nn.Module, model: nn.Module) -> None:
    """Give the model what its spread copy has become."""
    if spread is not model:
        for part, parameter in zip(spread.parameters(), model.parameters(), strict=True):
            parameter.copy_(whole(part))


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, in main memory if it is spread; then all processes have to ask for it."""
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """On the device of ``like``, and spread as it is where they have one shape."""
    if not hasattr(like, "device_mesh") or tensor.shape != like.shape:
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    spread: Any = like
    return distribute_tensor(tensor, spread.device_mesh, spread.placements)


class Objective(nn.Module):
    """The loss of a model as a module, for what wraps modules; the model keeps its names."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The scalar to minimise."""
        return self.loss(self.model, batch)
