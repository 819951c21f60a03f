"""Several processes that train one network, each on its share of the batches (torch.distributed)."""

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank_and_number() -> tuple[int, int]:
    """This process's number, from 0, and how many there are; (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share(batches: list[T]) -> list[T]:
    """This process's batches of an epoch: all have equally many, a remainder is left out.

    Raises ValueError where there are fewer batches than processes.
    """
    rank, number = rank_and_number()
    if len(batches) < number:
        raise ValueError(f"{len(batches)} batches for {number} processes; lower max_edges")
    return batches[rank : len(batches) - len(batches) % number : number]


def average(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """Replace the parameters' gradients by their mean over all processes and return that of the loss.

    One message. A parameter that had no part in this process's batch counts with a gradient of zero: it
    may have had one elsewhere.
    """
    if not dist.is_initialized():
        return loss
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([loss.reshape(1), *(g.ravel() for g in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    mean, *means = flat.split([1, *(g.numel() for g in gradients)])
    for parameter, gradient in zip(parameters, means, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return mean


def first_process_says(value: T) -> T:
    """The value that process 0 has, so that all decide alike."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
