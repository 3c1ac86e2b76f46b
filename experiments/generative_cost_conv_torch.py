"""PixelCNN and VQ-VAE in PyTorch, for `generative_cost_torch.py`.

Written from the papers (arXiv 1601.06759; 1711.00937 with moving averages, appendix A.1), in
`channels_last`. Modules have byoljax's names, and sizes are those of its weights. Nothing of
byoljax or JAX is imported.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional
from torch_steps import channels_first

MEAN, STD, COLORS = 0.5, 0.25, 3
DECAY, BETA, EPSILON = 0.99, 0.25, 1e-5
Given = Mapping[str, torch.Tensor]


def read(model: nn.Module, given: Given) -> nn.Module:
  """The model with byoljax's weights, all of which have to be used."""
  state = {}
  for path, value in given.items():
    *inside, leaf = path.split('/')
    name = '.'.join([*inside, 'weight' if leaf == 'kernel' else leaf])
    state[name] = value.permute(3, 2, 0, 1) if leaf == 'kernel' else value
  model.load_state_dict(state)
  return model.to(memory_format=torch.channels_last)


def color_of(features: int) -> torch.Tensor:
  """Which color each feature belongs to."""
  return torch.arange(features) * COLORS // features


class CausalConv(nn.Conv2d):
  """A convolution of the rows up to a place's own, masked: A sees earlier colors, B its own, too.

  What the mask leaves out is zero and gets no gradient, so that Adam leaves it at zero.
  """

  def __init__(self, kernel: torch.Tensor, kind: str = 'B'):
    rows, edge, inside, outside = kernel.shape
    super().__init__(inside, outside, (rows, edge))
    self.pads = (edge // 2, edge // 2, rows - 1, 0)
    mask = torch.ones_like(self.weight)
    mask[:, :, -1, edge // 2 + 1 :] = 0
    asked, given = color_of(outside)[:, None], color_of(inside)[None]
    mask[:, :, -1, edge // 2] = (asked > given if kind == 'A' else asked >= given).float()
    self.mask = mask.contiguous(memory_format=torch.channels_last)
    self.weight.register_hook(self.mask.mul)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> [b, features, h, w]."""
    if any(self.pads):
      return super().forward(functional.pad(x, self.pads))
    # A product of matrices, which starts sooner than a convolution.
    y = functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
    return y.permute(0, 3, 1, 2)


class CausalBlock(nn.Module):
  """1x1 to half the channels, 3x3, 1x1 back, each after a ReLU; added to the stream."""

  def __init__(self, given: Given, path: str):
    super().__init__()
    self.conv1, self.conv2, self.conv3 = (
      CausalConv(given[f'{path}/conv{number}/kernel']) for number in (1, 2, 3)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> the same."""
    y = self.conv1(functional.relu(x))
    return x + self.conv3(functional.relu(self.conv2(functional.relu(y))))


class PixelCNN(nn.Module):
  """The probability of every number of an image given those before it."""

  def __init__(self, given: Given):
    super().__init__()
    layers = {'layer0': CausalConv(given['encoder/layer0/kernel'], 'A')}
    while f'encoder/layer{len(layers)}/conv1/kernel' in given:
      layers[f'layer{len(layers)}'] = CausalBlock(given, f'encoder/layer{len(layers)}')
    self.encoder = nn.Sequential(OrderedDict(layers))
    self.decoder = nn.ModuleDict(
      {name: CausalConv(given[f'decoder/{name}/kernel']) for name in ('conv', 'logits')}
    )
    self.levels = given['decoder/logits/bias'].numel() // COLORS
    self.reach = sum(each.pads[0] for each in self.modules() if isinstance(each, CausalConv))
    read(self, given)
    with torch.no_grad():
      for module in self.modules():
        if isinstance(module, CausalConv):
          module.weight.mul_(module.mask)

  def seen(self, numbers: torch.Tensor) -> torch.Tensor:
    """Whole numbers -> normalized values."""
    return (numbers / (self.levels - 1) - MEAN) / STD

  def logits(self, features: torch.Tensor) -> torch.Tensor:
    """[b, D, h, w] -> [b, h, w, C, K]."""
    y = self.decoder['conv'](functional.relu(features))
    y = self.decoder['logits'](functional.relu(y))
    return y.permute(0, 2, 3, 1).unflatten(3, (COLORS, self.levels))

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Normalized images [b, C, H, W] -> the loss."""
    numbers = ((images * STD + MEAN) * 255).round().clamp(0, 255)
    numbers = (numbers * (self.levels / 256)).floor()
    logits = self.logits(self.encoder(self.seen(numbers)))
    targets = numbers.permute(0, 2, 3, 1).flatten().long()
    return functional.cross_entropy(logits.reshape(-1, self.levels), targets)

  @torch.inference_mode()
  def sample(self, count: int, size: int) -> torch.Tensor:
    """Images of whole numbers [count, C, size, size], a pass for each color of each pixel.

    A pass is over the part of the image that the pixel depends on, and the head is at the pixel.
    """
    numbers = channels_first(torch.zeros(count, size, size, COLORS))
    rows, columns = min(size, self.reach + 1), min(size, 2 * self.reach + 1)
    for y in range(size):
      top = max(0, min(y - self.reach, size - rows))
      for x in range(size):
        left = max(0, min(x - self.reach, size - columns))
        around = numbers[:, :, top : top + rows, left : left + columns]
        for color in range(COLORS):
          features = self.encoder(self.seen(around))
          own = features[:, :, y - top, x - left, None, None]
          shares = self.logits(own)[:, 0, 0, color].softmax(-1)
          numbers[:, color, y, x] = shares.multinomial(1)[:, 0].float()
    return numbers


class Residual(nn.Module):
  """x + conv1x1(relu(conv3x3(relu(x))))."""

  def __init__(self, given: Given, path: str):
    super().__init__()
    self.conv1, self.conv2 = (conv(given, f'{path}/conv{number}') for number in (1, 2))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> the same."""
    return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


def conv(given: Given, path: str) -> nn.Conv2d:
  """As large as the weights; kernels of 4 have stride 2."""
  edge, _, inside, outside = given[f'{path}/kernel'].shape
  return nn.Conv2d(inside, outside, edge, 2 if edge == 4 else 1, (edge - 1) // 2)


class Quantizer(nn.Module):
  """The nearest code, straight through; codes follow by moving averages after they were read."""

  def __init__(self, given: Given):
    super().__init__()
    self.latents_conv = conv(given, 'quantizer/latents_conv')
    for name in ('counts', 'sums'):
      self.register_buffer(name, torch.empty_like(given[f'quantizer/{name}']))

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, C, h, w] -> the codes' vectors [b, D, h, w], and the commitment."""
    z = self.latents_conv(x).permute(0, 2, 3, 1)
    with torch.no_grad():
      flat, total = z.flatten(0, 2), self.counts.sum()
      smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
      book = self.sums / smoothed[:, None]
      chosen = torch.addmm(book.square().sum(1), flat, book.T, alpha=-2).argmin(1)
      vectors = book[chosen].view(z.shape)
      used = torch.bincount(chosen, minlength=len(book)).float()
      self.counts.lerp_(used, 1 - DECAY)
      self.sums.lerp_(torch.zeros_like(book).index_add_(0, chosen, flat), 1 - DECAY)
    quantized = z + (vectors - z).detach()
    return quantized.permute(0, 3, 1, 2), functional.mse_loss(z, vectors)


def chain(given: Given, role: str) -> nn.Sequential:
  """All layers of a role: halvings, a convolution, residual blocks, doublings."""
  names = {path.split('/')[1] for path in given if path.startswith(f'{role}/')}
  made = nn.Sequential()
  for name in sorted(names, key=lambda name: ('down in_conv block up'.find(name[:2]), name)):
    path = f'{role}/{name}'
    if name.startswith('up'):
      made.append(nn.ReLU())
    made.add_module(name, Residual(given, path) if name.startswith('block') else conv(given, path))
    if name.startswith('up'):
      made.append(nn.PixelShuffle(2))
    elif name.startswith('down'):
      made.append(nn.ReLU())
  return made


class VQVAE(nn.Module):
  """Encoder, codebook and decoder."""

  def __init__(self, given: Given):
    super().__init__()
    self.encoder, self.decoder = (chain(given, role) for role in ('encoder', 'decoder'))
    self.quantizer = Quantizer(given)
    read(self, {path: shuffled(path, value) for path, value in given.items()})

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Normalized images [b, C, H, W] -> the loss."""
    quantized, commitment = self.quantizer(functional.relu(self.encoder(images)))
    return functional.mse_loss(self.decoder(quantized), images) + BETA * commitment


def shuffled(path: str, value: torch.Tensor) -> torch.Tensor:
  """Flax has the channels of a square outermost, PyTorch's shuffle innermost."""
  if not path.startswith('decoder/up'):
    return value
  return value.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2)
