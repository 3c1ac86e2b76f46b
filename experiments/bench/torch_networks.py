"""byoljax's ResNets and heads in PyTorch, with byoljax's parameter names.

Weights are copied by name, and a difference in structure is an error. Nothing of byoljax or JAX is
imported.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# encoder -> channels and stride of the stem; (channels, blocks, stride) of the stages; whether the
# shortcut averages the pixels that a stride skips
ENCODERS = {
  'resnet18': (64, 1, ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)), False),
  'small': (16, 2, ((32, 1, 2), (128, 1, 2)), True),
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
  """Linear, perhaps BN, relu, linear, perhaps BN with a scale and no shift."""

  def __init__(
    self,
    inputs: int,
    features: Sequence[int],
    *,
    hidden_bias: bool = True,
    norm: bool = True,
    last_bias: bool = False,
    last_norm: bool = False,
  ):
    super().__init__()
    hidden, outputs = features
    self.linear1 = nn.Linear(inputs, hidden, bias=hidden_bias)
    self.bn1 = nn.BatchNorm1d(hidden) if norm else nn.Identity()
    self.linear2 = nn.Linear(hidden, outputs, bias=last_bias)
    self.bn2 = nn.Identity()
    if last_norm:
      self.bn2 = nn.BatchNorm1d(outputs)
      self.bn2.bias = None

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, D] -> [b, features[-1]]."""
    return self.bn2(self.linear2(functional.relu(self.bn1(self.linear1(x)))))


class Network(nn.Module):
  """Encoder, projector and perhaps a predictor: images -> the last one's output.

  Args:
    encoder: one of `ENCODERS`.
    projector: sizes of its layers.
    predictor: the same, () for none.
    head: what heads differ in between methods; see `Head`.
  """

  def __init__(
    self,
    encoder: str,
    projector: Sequence[int],
    predictor: Sequence[int] = (),
    head: Mapping[str, bool] | None = None,
  ):
    super().__init__()
    options = head or {}
    self.encoder = Encoder(encoder)
    self.projector = Head(self.encoder.width, projector, **options)
    self.predictor = nn.Identity()
    if predictor:
      self.predictor = Head(projector[-1], predictor, **options)

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
