"""The same BYOL step in PyTorch: networks, loss, LARS, moving average, from the same weights.

Written as a good PyTorch program would be: `torch._foreach` operations in the optimiser and in the
moving average (no Python loop over tensors), no gradient for the target, bfloat16 by autocast.
Modules carry byoljax's parameter names, so weights are copied by name and a difference in structure
is an error. Nothing of byoljax or JAX is imported.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Sequence
import contextlib
import math
import time
from typing import Any

import contest
import numpy as np
import torch
from torch import nn
from torch.nn import functional

PACKAGES = ('torch', 'numpy')
# encoder -> channels and stride of the stem; (channels, blocks, stride) of the stages; whether the
# shortcut averages the pixels that a stride skips
ENCODERS = {
  'resnet18': (64, 1, ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)), False),
  'small': (16, 2, ((32, 1, 2), (128, 1, 2)), True),
}
# how the networks are run -> (memory format of images and weights, whether torch.compile is used)
VARIANTS = {
  'eager': (torch.contiguous_format, False),
  'channels_last': (torch.channels_last, False),
  'compiled': (torch.channels_last, True),
}


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
  """Square convolution without bias."""
  return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
  """A basic residual block."""

  def __init__(self, inputs: int, channels: int, stride: int, pooled: bool):
    super().__init__()
    self.conv1, self.bn1 = conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
    self.conv2, self.bn2 = conv(channels, channels, 3, 1), nn.BatchNorm2d(channels)
    self.pool = stride if pooled and stride > 1 else 0
    self.shortcut_conv = None
    if inputs != channels or stride != 1:
      self.shortcut_conv = conv(inputs, channels, 1, 1 if self.pool else stride)
      self.shortcut_bn = nn.BatchNorm2d(channels)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, H, W] -> [b, channels, H / stride, W / stride]."""
    y = functional.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if self.shortcut_conv is not None:
      if self.pool:
        x = functional.avg_pool2d(x, self.pool, ceil_mode=True, count_include_pad=False)
      x = self.shortcut_bn(self.shortcut_conv(x))
    return functional.relu(x + y)


class Encoder(nn.Module):
  """Stem, stages, mean over space."""

  def __init__(self, name: str):
    super().__init__()
    stem, stride, stages, pooled = ENCODERS[name]
    self.stem_conv, self.stem_bn = conv(3, stem, 3, stride), nn.BatchNorm2d(stem)
    self.width, self.order = stem, []
    for stage, (channels, depth, stage_stride) in enumerate(stages, start=1):
      for block in range(depth):
        self.order.append(f'stage{stage}_block{block}')
        made = Block(self.width, channels, 1 if block else stage_stride, pooled)
        self.add_module(self.order[-1], made)
        self.width = channels

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Images [b, 3, S, S] -> embedding [b, D]."""
    x = functional.relu(self.stem_bn(self.stem_conv(x)))
    for name in self.order:
      x = getattr(self, name)(x)
    return x.mean((2, 3))


class Head(nn.Module):
  """Linear, BN, relu, linear without bias."""

  def __init__(self, inputs: int, features: Sequence[int]):
    super().__init__()
    hidden, outputs = features
    self.linear1, self.bn1 = nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden)
    self.linear2 = nn.Linear(hidden, outputs, bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, D] -> [b, features[-1]]."""
    return self.linear2(functional.relu(self.bn1(self.linear1(x))))


class Network(nn.Module):
  """Encoder, projector and, in the online network, predictor: images -> the last one's output."""

  def __init__(self, case: dict[str, Any], online: bool):
    super().__init__()
    self.encoder = Encoder(case['encoder'])
    self.projector = Head(self.encoder.width, case['projector'])
    self.predictor = Head(case['projector'][-1], case['predictor']) if online else nn.Identity()

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Images [b, 3, S, S] -> float32 [b, D]."""
    return self.predictor(self.projector(self.encoder(x))).float()


def name_of(path: str) -> str:
  """byoljax's path of a parameter -> PyTorch's name."""
  *modules, kind = path.split('/')
  return '.'.join([*modules, 'bias' if kind == 'bias' else 'weight'])


def load(network: nn.Module, arrays: dict[str, np.ndarray]) -> None:
  """Copies byoljax's weights; every parameter must be given, with its shape."""
  given = {}
  for path, value in arrays.items():
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
    given[name_of(path)] = torch.from_numpy(np.ascontiguousarray(value.transpose(axes)))
  own = dict(network.named_parameters())
  if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
    wrong = sorted(own.keys() ^ given.keys()) or 'shapes differ'
    raise ValueError(f'not the same network: {wrong}')
  network.load_state_dict(given, strict=False)


class Lars:
  """LARS as in BYOL's code: biases and normalisation neither decayed nor adapted."""

  def __init__(self, parameters: Sequence[nn.Parameter], case: dict[str, Any]):
    self.adapted = [p for p in parameters if p.ndim > 1]
    self.all = self.adapted + [p for p in parameters if p.ndim == 1]
    self.momenta = [torch.zeros_like(p) for p in self.all]
    self.lr, self.decay = case['lr'], case['weight_decay']
    self.momentum, self.trust = case['momentum'], case['trust_coefficient']

  @torch.no_grad()
  def step(self) -> None:
    """One update from the gradients, which it uses up."""
    updates = [p.grad for p in self.all]
    adapted = updates[: len(self.adapted)]
    torch._foreach_add_(adapted, self.adapted, alpha=self.decay)
    u, w = (torch.stack(torch._foreach_norm(x)) for x in (adapted, self.adapted))
    ratios = torch.where((u > 0) & (w > 0), self.trust * w / u, torch.ones_like(u))
    torch._foreach_mul_(adapted, list(ratios.unbind()))
    torch._foreach_mul_(self.momenta, self.momentum)
    torch._foreach_add_(self.momenta, updates)
    torch._foreach_add_(self.all, self.momenta, alpha=-self.lr)
    for p in self.all:
      p.grad = None


def regression(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
  """2 - 2 cos(p, z), averaged."""
  return 2 - 2 * (functional.normalize(p, dim=1) * functional.normalize(z, dim=1)).sum(1).mean()


class Contestant:
  """Answers 'prepare', 'check' and 'steps' like its namesake in jax_byol.py."""

  def prepare(self, case: dict[str, Any], start: str, variant: str, threads: int) -> contest.Reply:
    """Builds the networks from the weights and views in `start`."""
    torch.set_num_threads(threads)
    layout, compiled = VARIANTS[variant]
    self._case, self._step = case, 0
    self.online, self.target = Network(case, True), Network(case, False)
    self.target.requires_grad_(False)
    with np.load(start) as arrays:
      for role, network in (('online', self.online), ('target', self.target)):
        own = {k.partition('/')[2]: arrays[k] for k in arrays if k.startswith(f'{role}/')}
        load(network, own)
        network.to(memory_format=layout).train()
      views = [torch.from_numpy(arrays[name].transpose(0, 3, 1, 2)) for name in ('view1', 'view2')]
    self._views = [view.contiguous(memory_format=layout) for view in views]
    self._run_online, self._run_target = (
      torch.compile(network) if compiled else network for network in (self.online, self.target)
    )
    shared = dict(self.online.named_parameters())
    self._averaged = [p for _, p in self.target.named_parameters()]
    self._sources = [shared[name] for name, _ in self.target.named_parameters()]
    self._lars = Lars(list(self.online.parameters()), case)
    self._start = [p.detach().clone() for p in self._all()]
    counts = {
      role: sum(p.numel() for p in network.parameters())
      for role, network in (('online', self.online), ('target', self.target))
    }
    return {'parameters': counts, 'versions': contest.versions(PACKAGES)}

  def _all(self) -> list[torch.Tensor]:
    return [*self._lars.all, *self._averaged]

  def _loss(self) -> torch.Tensor:
    mixed = (
      torch.autocast('cpu', torch.bfloat16)
      if self._case['dtype'] == 'bfloat16'
      else contextlib.nullcontext()
    )
    with mixed:
      p1, p2 = (self._run_online(view) for view in self._views)
      with torch.no_grad():
        z1, z2 = (self._run_target(view) for view in self._views)
    return regression(p1, z2) + regression(p2, z1)

  def _one(self) -> float:
    loss = self._loss()
    loss.backward()
    self._lars.step()
    done = self._step / self._case['total_steps']
    weight = (1 - self._case['base_tau']) * 0.5 * (math.cos(math.pi * done) + 1)
    with torch.no_grad():
      torch._foreach_lerp_(self._averaged, self._sources, weight)
    self._step += 1
    return loss.item()

  def check(self, steps: int) -> contest.Reply:
    """The first steps: their losses, and how far each kind of parameter has moved by then."""
    begin = time.perf_counter()
    losses = [self._one()]
    first = time.perf_counter() - begin
    losses += [self._one() for _ in range(steps - 1)]
    kinds = ('online, adapted', 'online, excluded', 'target')
    adapted, own = len(self._lars.adapted), len(self._lars.all)
    squares = dict.fromkeys(kinds, 0.0)
    for i, (now, before) in enumerate(zip(self._all(), self._start, strict=True)):
      kind = kinds[0 if i < adapted else 1 if i < own else 2]
      squares[kind] += float((now.detach() - before).double().square().sum())
    moved = {kind: square**0.5 for kind, square in squares.items()}
    return {'losses': losses, 'moved': moved, 'first_step_s': first}

  def steps(self, count: int) -> contest.Reply:
    """Times steps one by one."""
    wall, cpu = zip(*(contest.timed(self._one) for _ in range(count)), strict=True)
    return {'wall': wall, 'cpu': cpu}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve(
    {'prepare': contestant.prepare, 'check': contestant.check, 'steps': contestant.steps}
  )
