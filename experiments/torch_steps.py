"""What the PyTorch sides of measured train steps have in common: one core, and steps of Adam.

The other end of `beside_torch.in_pytorch`. Nothing of byoljax or JAX is imported.
"""

from collections.abc import Callable
import os
import time

import numpy as np
import torch
from torch import nn


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


def trained(
  model: nn.Module, loss_of: Callable[[int], torch.Tensor], steps: int, rate: float, checked: int
) -> dict[str, list[float]]:
  """Losses of all steps, and CPU seconds of each behind the checked ones.

  Args:
    model: its parameters are trained.
    loss_of: a step's number -> loss.
    steps: that are timed.
    rate: of Adam.
    checked: steps before them.
  """
  adam = torch.optim.Adam(model.parameters(), rate, fused=True)
  losses, seconds = [], []
  for step in range(checked + steps):
    began = time.process_time()
    adam.zero_grad(set_to_none=True)
    loss = loss_of(step)
    loss.backward()
    adam.step()
    losses.append(loss.item())
    seconds.append(time.process_time() - began)
  return {'losses': losses, 'cpu_s': seconds[checked:]}
