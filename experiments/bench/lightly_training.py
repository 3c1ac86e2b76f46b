"""BYOL as lightly's example for CIFAR-10 does it, in our words, as a contestant.

torchvision's ResNet-18 without its last layer; lightly's heads, loss, moving average, schedule and
transform; SGD; a DataLoader with workers that persist. Eager PyTorch, float32.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Iterator
import copy
import math
import os
import time
from typing import Any

import contest
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.byol_transform import (
  BYOLTransform,
  BYOLView1Transform,
  BYOLView2Transform,
)
from lightly.utils.scheduler import cosine_schedule
from lightly_pipeline import Images, view_settings
import torch
from torch import nn
from torch.utils import data
import torchvision

PACKAGES = ('torch', 'torchvision', 'lightly', 'numpy', 'pillow', 'pillow-simd')


class Contestant:
  """Answers 'prepare' and 'steps' like its namesake in jax_training.py."""

  def prepare(self, case: dict[str, Any], workers: int, threads: int) -> contest.Reply:
    """Builds the networks and the input, and makes two steps."""
    torch.set_num_threads(threads)
    torch.manual_seed(case['seed'])
    self._case, self._step = case, 0
    encoder = torchvision.models.resnet18()
    width, encoder.fc = encoder.fc.in_features, nn.Identity()
    hidden, outputs = case['hidden'], case['outputs']
    projector = BYOLProjectionHead(width, hidden, outputs)
    self._predictor = BYOLPredictionHead(outputs, hidden, outputs)
    self._online = nn.Sequential(encoder, projector)
    self._target = copy.deepcopy(self._online)
    deactivate_requires_grad(self._target)
    trained = [*self._online.parameters(), *self._predictor.parameters()]
    self._optimizer = torch.optim.SGD(trained, lr=case['lr'])
    self._loss = NegativeCosineSimilarity()
    settings = [view_settings(view, case['mean'], case['std']) for view in case['views']]
    transform = BYOLTransform(BYOLView1Transform(**settings[0]), BYOLView2Transform(**settings[1]))
    self._images = Images(case['path'], transform)
    self._loader = data.DataLoader(
      self._images,
      case['batch_size'],
      shuffle=True,
      drop_last=True,
      num_workers=workers,
      persistent_workers=True,
    )
    self._batches = self._endless()
    for _ in range(2):
      self._one()
    counts = {
      'encoder': sum(p.numel() for p in encoder.parameters()),
      'heads': sum(p.numel() for head in (projector, self._predictor) for p in head.parameters()),
    }
    return {'parameters': counts, 'versions': contest.versions(PACKAGES)}

  def _endless(self) -> Iterator[list[torch.Tensor]]:
    while True:
      yield from self._loader

  def _one(self) -> torch.Tensor:
    rate = cosine_schedule(self._step, self._case['total_steps'], 0.996, 1)
    update_momentum(self._online, self._target, m=rate)
    first, second = next(self._batches)
    p_first = self._predictor(self._online(first))
    p_second = self._predictor(self._online(second))
    with torch.no_grad():
      z_first, z_second = self._target(first), self._target(second)
    loss = 0.5 * (self._loss(p_first, z_second) + self._loss(p_second, z_first))
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad()
    self._step += 1
    return loss.detach()

  def steps(self, untimed: int, count: int) -> contest.Reply:
    """Times steps together; the last loss is read, as for a log. Workers' CPU time counts."""
    for _ in range(untimed):
      self._one()
    helpers, cpu = _children_seconds(), contest.cpu_seconds()
    began = time.perf_counter()
    for _ in range(count):
      loss = self._one()
    value = float(loss)
    wall = time.perf_counter() - began
    cpu = contest.cpu_seconds() - cpu + _children_seconds() - helpers
    if not math.isfinite(value):
      raise FloatingPointError(f'the loss is {value}')
    images = count * self._case['batch_size']
    return {'images': images, 'wall': wall, 'cpu': cpu, 'loss': value}


def _children_seconds() -> float:
  """CPU seconds of the children that live, the DataLoader's workers; 0 without /proc."""
  total = 0.0
  for task in _read(f'/proc/self/task/{os.getpid()}/children').split():
    fields = _read(f'/proc/{task}/stat').rpartition(')')[2].split()
    total += sum(map(int, fields[11:13])) / os.sysconf('SC_CLK_TCK')
  return total


def _read(path: str) -> str:
  try:
    with open(path, encoding='utf-8') as file:
      return file.read()
  except OSError:
    return ''


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'steps': contestant.steps})
