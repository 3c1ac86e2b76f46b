"""PixelCNN, its gated form and PixelCNN++ in PyTorch, for `generative_cost_torch.py`.

Written from the papers (arXiv 1601.06759, 1606.05328, 1701.05517), in `channels_last`. Modules have
byoljax's names, and sizes are those of its weights. Nothing of byoljax or JAX is imported.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional
from torch_steps import Given, channels_first, read

MEAN, STD, COLORS, LEVELS = 0.5, 0.25, 3, 32


def numbers_of(images: torch.Tensor) -> torch.Tensor:
  """Normalized images as whole numbers below `LEVELS`."""
  bytes_ = ((images * STD + MEAN) * 255).round().clamp(0, 255)
  return (bytes_ * (LEVELS / 256)).floor()


def seen(numbers: torch.Tensor) -> torch.Tensor:
  """Whole numbers -> normalized values."""
  return (numbers / (LEVELS - 1) - MEAN) / STD


def color_of(features: int, parts: int = 1) -> torch.Tensor:
  """Which color each feature belongs to, in each of the parts."""
  own = features // parts
  return (torch.arange(own) * COLORS // own).repeat(parts)


def point(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
  """A 1x1 convolution as a product of matrices, which starts sooner."""
  return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class CausalConv(nn.Conv2d):
  """A convolution of the rows up to a place's own.

  What is seen of its own row is masked: 'before', what is left of it and earlier colors (mask A);
  'own', its own color, too (B); 'all', everything. What the mask leaves out is zero and gets no
  gradient, so that Adam leaves it at zero.
  """

  def __init__(self, given: Given, path: str, sees: str = 'own', parts: int = 1):
    rows, edge, inside, outside = given[f'{path}/kernel'].shape
    super().__init__(inside, outside, (rows, edge))
    half = edge // 2
    self.pads, self.mask = (half, half, rows - 1, 0), None
    if sees != 'all':
      mask = torch.ones_like(self.weight)
      mask[:, :, -1, half + 1 :] = 0
      asked, found = color_of(outside, parts)[:, None], color_of(inside)[None]
      mask[:, :, -1, half] = (asked > found if sees == 'before' else asked >= found).float()
      self.mask = mask.contiguous(memory_format=torch.channels_last)
      self.weight.register_hook(self.mask.mul)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> [b, features, h, w]."""
    if any(self.pads):
      return super().forward(functional.pad(x, self.pads))
    return point(x, self.weight, self.bias)


class CausalBlock(nn.Module):
  """1x1 to half the channels, 3x3, 1x1 back, each after a ReLU; added to the stream."""

  def __init__(self, given: Given, path: str):
    super().__init__()
    self.conv1, self.conv2, self.conv3 = (
      CausalConv(given, f'{path}/conv{number}') for number in (1, 2, 3)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> the same."""
    y = self.conv1(functional.relu(x))
    return x + self.conv3(functional.relu(self.conv2(functional.relu(y))))


def gate(x: torch.Tensor) -> torch.Tensor:
  """tanh of one half times the sigmoid of the other."""
  a, b = x.chunk(2, 1)
  return torch.tanh(a) * torch.sigmoid(b)


def lowered(x: torch.Tensor) -> torch.Tensor:
  """Moved down by a row; the first one is zero."""
  return functional.pad(x, (0, 0, 1, 0))[:, :, :-1]


class GatedBlock(nn.Module):
  """A vertical and a horizontal stack; the first has no residual, and mask A."""

  def __init__(self, given: Given, path: str, first: bool):
    super().__init__()
    self.first = first
    self.vertical, self.between = (
      CausalConv(given, f'{path}/{name}', 'all') for name in ('vertical', 'between')
    )
    self.horizontal = CausalConv(given, f'{path}/horizontal', 'before' if first else 'own', 2)
    self.out = CausalConv(given, f'{path}/out')

  def forward(self, streams: tuple[torch.Tensor, torch.Tensor]) -> tuple:
    """(vertical, horizontal) -> the same."""
    down = self.vertical(streams[0])
    across = self.horizontal(streams[1]) + self.between(lowered(down))
    y = self.out(gate(across))
    return gate(down), y if self.first else streams[1] + y


class Raster(nn.Module):
  """What draws images pixel by pixel: `reach`, `passes` for a pixel, `features`, `drawn`.

  `drawn(features at a pixel [b, D, 1, 1], numbers [b, C], number of the pass)` -> numbers.
  """

  @torch.inference_mode()
  def sample(self, count: int, size: int) -> torch.Tensor:
    """Images of whole numbers [count, C, size, size].

    A pass is over the part of the image that the pixel depends on, and the head is at the pixel.
    """
    numbers = channels_first(torch.zeros(count, size, size, COLORS))
    rows, columns = min(size, self.reach + 1), min(size, 2 * self.reach + 1)
    for y, x in itertools.product(range(size), repeat=2):
      top = max(0, min(y - self.reach, size - rows))
      left = max(0, min(x - self.reach, size - columns))
      around = numbers[:, :, top : top + rows, left : left + columns]
      for number in range(self.passes):
        features = self.features(seen(around))[:, :, y - top, x - left, None, None]
        numbers[:, :, y, x] = self.drawn(features, numbers[:, :, y, x], number)
    return numbers


class PixelCNN(Raster):
  """The probability of every number of an image given those before it."""

  passes = COLORS

  def __init__(self, given: Given):
    super().__init__()
    self.gated = 'encoder/layer0/vertical/kernel' in given
    depth = len({path.split('/')[1] for path in given if path.startswith('encoder/layer')})
    self.encoder = nn.Sequential()
    for number in range(depth):
      path = f'encoder/layer{number}'
      if self.gated:
        layer: nn.Module = GatedBlock(given, path, not number)
      else:
        layer = CausalBlock(given, path) if number else CausalConv(given, path, 'before')
      self.encoder.add_module(f'layer{number}', layer)
    # Of a place's features: the gated form reads a row above in its first block, too.
    convs = [each for each in self.encoder.modules() if isinstance(each, CausalConv)]
    self.reach = sum(each.pads[2] for each in convs) + self.gated
    self.decoder = nn.ModuleDict(
      {name: CausalConv(given, f'decoder/{name}') for name in ('conv', 'logits')}
    )
    read(self, given)
    with torch.no_grad():
      for module in self.modules():
        if isinstance(module, CausalConv) and module.mask is not None:
          module.weight.mul_(module.mask)

  def features(self, x: torch.Tensor) -> torch.Tensor:
    """Normalized images -> [b, D, h, w]."""
    return self.encoder((x, x))[1] if self.gated else self.encoder(x)

  def logits(self, features: torch.Tensor) -> torch.Tensor:
    """[b, D, h, w] -> [b, h, w, C, K]."""
    y = self.decoder['conv'](functional.relu(features))
    y = self.decoder['logits'](functional.relu(y))
    return y.permute(0, 2, 3, 1).unflatten(3, (COLORS, LEVELS))

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Normalized images [b, C, H, W] -> the loss."""
    numbers = numbers_of(images)
    logits = self.logits(self.features(seen(numbers)))
    targets = numbers.permute(0, 2, 3, 1).flatten().long()
    return functional.cross_entropy(logits.reshape(-1, LEVELS), targets)

  def drawn(self, features: torch.Tensor, numbers: torch.Tensor, color: int) -> torch.Tensor:
    """See `Raster`."""
    shares = self.logits(features)[:, 0, 0, color].softmax(-1)
    numbers[:, color] = shares.multinomial(1)[:, 0].float()
    return numbers


class ShiftedConv(nn.Module):
  """A convolution of the rows up to a place's own, and of columns up to it or on both sides.

  `stride`: 1; 2 halves the sides; 'up' doubles them.
  """

  def __init__(self, given: Given, path: str, right: bool, stride: int | str = 1):
    super().__init__()
    rows, columns, inside, outside = given[f'{path}/kernel'].shape
    self.doubles, self.stride = stride == 'up', stride
    self.left = columns // 2 if right else 0
    across = (columns // 2, columns // 2) if right else (columns - 1, 0)
    self.pads, self.point = (*across, rows - 1, 0), rows == columns == 1
    shape = (inside, outside) if self.doubles else (outside, inside)
    self.weight = nn.Parameter(torch.empty(*shape, rows, columns))
    self.bias = nn.Parameter(torch.empty(outside))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, H, W] -> [b, features, h, w]."""
    if self.point:
      return point(x, self.weight, self.bias)
    if not self.doubles:
      return functional.conv2d(functional.pad(x, self.pads), self.weight, self.bias, self.stride)
    height, width = 2 * x.shape[2], 2 * x.shape[3]
    y = functional.conv_transpose2d(x, self.weight, self.bias, 2)
    return y[:, :, :height, self.left : self.left + width]


def concat_elu(x: torch.Tensor) -> torch.Tensor:
  """ELU of x and of -x."""
  return functional.elu(torch.cat([x, -x], 1))


class ShiftedBlock(nn.Module):
  """A gated residual block, perhaps with a further input."""

  def __init__(self, given: Given, path: str, right: bool):
    super().__init__()
    self.conv1, self.conv2 = (
      ShiftedConv(given, f'{path}/conv{number}', right) for number in (1, 2)
    )
    self.other = None
    if f'{path}/other/kernel' in given:
      self.other = ShiftedConv(given, f'{path}/other', False)

  def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    """The stream, and what is added before the second convolution."""
    y = self.conv1(concat_elu(x))
    if self.other is not None:
      y = y + self.other(concat_elu(other))
    a, b = self.conv2(concat_elu(y)).chunk(2, 1)
    return x + a * torch.sigmoid(b)


class PixelCNNpp(Raster):
  """Mixtures of logistics for every pixel given those before it; nothing is dropped."""

  passes, reach = 1, 1 << 20

  def __init__(self, given: Given):
    super().__init__()
    names = {path.split('/')[1] for path in given if path.startswith('encoder/')}
    self.encoder = nn.ModuleDict()
    for name in names:
      path, right = f'encoder/{name}', not name.endswith('left')
      if f'{path}/conv1/kernel' in given:
        self.encoder[name] = ShiftedBlock(given, path, right)
      else:
        stride = {'ha': 2, 'do': 'up'}.get(name[:2], 1)
        self.encoder[name] = ShiftedConv(given, path, right, stride)
    self.decoder = nn.ModuleDict({'conv': ShiftedConv(given, 'decoder/conv', False)})
    read(self, {path: turned(path, value) for path, value in given.items()})

  def pair(self, name: str, pair: tuple, shortcut: tuple | None = None) -> tuple:
    """Both streams of a layer."""
    above, left = self.encoder[f'{name}_above'], self.encoder[f'{name}_left']
    if isinstance(above, ShiftedConv):
      return above(pair[0]), left(pair[1])
    u = above(pair[0], shortcut and shortcut[0])
    return u, left(pair[1], torch.cat([u, shortcut[1]], 1) if shortcut else u)

  def features(self, x: torch.Tensor) -> torch.Tensor:
    """Normalized images -> [b, D, h, w]; one block on each of two resolutions."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    first = self.encoder
    left = functional.pad(first['left'](x), (1, 0))[..., :-1]
    start = lowered(first['above'](x)), lowered(first['row'](x)) + left
    one = self.pair('down0_0', start)
    halved = self.pair('halve0', one)
    y = self.pair('up1_0', self.pair('down1_0', halved), halved)
    y = self.pair('up0_0', self.pair('double1', y), one)
    return self.pair('up0_1', y, start)[1]

  def mixture(self, features: torch.Tensor) -> tuple:
    """Logits [..., M], means, log-scales and coefficients [..., M, 3]."""
    y = self.decoder['conv'](functional.elu(features)).permute(0, 2, 3, 1).unflatten(3, (-1, 10))
    return y[..., 0], y[..., 1:4], y[..., 4:7].clamp(min=-7), y[..., 7:].tanh()

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Normalized images [b, C, H, W] -> the loss, in nats a number."""
    numbers = numbers_of(images)
    logits, means, log_scales, c = self.mixture(self.features(seen(numbers)))
    number = numbers.permute(0, 2, 3, 1)[..., None, :]
    x, half = 2 * number / (LEVELS - 1) - 1, 1 / (LEVELS - 1)
    green = c[..., 0] * x[..., 0]
    blue = c[..., 1] * x[..., 0] + c[..., 2] * x[..., 1]
    centered = x - means - torch.stack([torch.zeros_like(green), green, blue], -1)
    inverse = torch.exp(-log_scales)
    above, below, middle = (inverse * (centered + by) for by in (half, -half, 0.0))
    mass = torch.sigmoid(above) - torch.sigmoid(below)
    density = middle - log_scales - 2 * functional.softplus(middle) + math.log(2 * half)
    inner = torch.where(mass > 1e-5, mass.clamp(min=1e-12).log(), density)
    last = torch.where(number == LEVELS - 1, -functional.softplus(below), inner)
    each = torch.where(number == 0, above - functional.softplus(above), last)
    nats = -torch.logsumexp(each.sum(-1) + logits.log_softmax(-1), -1)
    return nats.sum() / numbers.numel()

  def drawn(self, features: torch.Tensor, numbers: torch.Tensor, number: int) -> torch.Tensor:
    """See `Raster`."""
    del number
    logits, *found = (each[:, 0, 0] for each in self.mixture(features))
    which = logits.softmax(-1).multinomial(1)[:, :, None].expand(-1, 1, 3)
    means, log_scales, c = (each.gather(1, which)[:, 0] for each in found)
    uniform = torch.rand_like(means).clamp(1e-5, 1 - 1e-5)
    spread = log_scales.exp() * torch.logit(uniform)
    x: list[torch.Tensor] = []
    for color in range(COLORS):
      added = sum(c[:, color - 1 + at] * x[at] for at in range(color))
      value = (means[:, color] + added + spread[:, color]).clamp(-1, 1)
      numbers[:, color] = ((value + 1) / 2 * (LEVELS - 1)).round()
      x.append(2 * numbers[:, color] / (LEVELS - 1) - 1)
    return numbers


def turned(path: str, value: torch.Tensor) -> torch.Tensor:
  """A doubling kernel, which PyTorch turns around and has with inputs first."""
  if not (path.startswith('encoder/double') and path.endswith('kernel')):
    return value
  return value.flip(0, 1).transpose(2, 3).contiguous()
