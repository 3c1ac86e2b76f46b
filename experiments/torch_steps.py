"""What the PyTorch sides of measured train steps have in common: one core, and steps of Adam.

The other end of `beside_torch.in_pytorch`. Nothing of byoljax or JAX is imported.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import os
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

Given = Mapping[str, torch.Tensor]
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


class Phase(NamedTuple):
  """A part of a step, with an Adam of its own.

  Attributes:
    parameters: that it trains.
    loss_of: a step's number -> loss.
  """

  parameters: Iterable[nn.Parameter]
  loss_of: Callable[[int], torch.Tensor]


def one_core() -> None:
  """As `beside_torch.one_core`."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  torch.set_num_threads(1)


def arrays_of(path: str) -> dict[str, torch.Tensor]:
  """What was given, by name."""
  return {name: torch.from_numpy(x) for name, x in np.load(path).items()}


def channels_first(images: torch.Tensor) -> torch.Tensor:
  """[b, H, W, C] -> [b, C, H, W] in the layout that PyTorch's convolutions like best on a CPU."""
  return images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def read(model: nn.Module, given: Given) -> nn.Module:
  """A model of convolutions with byoljax's weights, all of which have to be used."""
  state = {}
  for path, value in given.items():
    *inside, leaf = path.split('/')
    kernel = leaf == 'kernel'
    state['.'.join([*inside, _LEAVES.get(leaf, leaf)])] = (
      value.permute(3, 2, 0, 1) if kernel else value
    )
  model.load_state_dict(state)
  return model.to(memory_format=torch.channels_last)


def trained(
  phases: Sequence[Phase], steps: int, rate: float, checked: int
) -> dict[str, list[float]]:
  """Losses of all steps, and CPU seconds of each behind the checked ones.

  Args:
    phases: of a step, one after the other; its loss is the sum of theirs.
    steps: that are timed.
    rate: of Adam.
    checked: steps before them.
  """
  adams = [torch.optim.Adam(phase.parameters, rate, fused=True) for phase in phases]
  losses, seconds = [], []
  for step in range(checked + steps):
    began, total = time.process_time(), 0.0
    for phase, adam in zip(phases, adams, strict=True):
      adam.zero_grad(set_to_none=True)
      loss = phase.loss_of(step)
      loss.backward()
      adam.step()
      total += loss.item()
    losses.append(total)
    seconds.append(time.process_time() - began)
  return {'losses': losses, 'cpu_s': seconds[checked:]}
