"""Methods that reconstruct in PyTorch, for `reconstruction_cost.py`: their train steps.

Written from the papers around timm's transformer blocks and torchvision's ResNet-18, with fused
attention and fused Adam. Weights are read by byoljax's names; nothing of byoljax is imported.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Callable
import functools
import json
import sys

from timm.models.vision_transformer import Block
import torch
from torch import nn
from torch.nn import functional
from torch_steps import Given, Phase, arrays_of, channels_first, one_core, trained
import torchvision

PATCH, NOISE, SIGMA, NEIGHBORS = 4, 0.25, 5.0, 5
MEAN, STD = 0.5, 0.25


def blocks(count: int, dim: int, heads: int) -> nn.ModuleList:
  """timm's blocks, with LayerNorm's epsilon of MAE."""
  norm = functools.partial(nn.LayerNorm, eps=1e-6)
  return nn.ModuleList(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(count))


def cut(images: torch.Tensor) -> torch.Tensor:
  """[b, H, W, C] -> patches [b, n, patch^2 C]."""
  b, height, width, channels = images.shape
  x = images.reshape(b, height // PATCH, PATCH, width // PATCH, PATCH, channels)
  return x.transpose(2, 3).reshape(b, -1, PATCH * PATCH * channels)


class MAE(nn.Module):
  """A masked autoencoder: the encoder sees the patches that are kept."""

  def __init__(self, given: Given, heads: int = 3):
    super().__init__()
    dim, small = given['positions'].shape[1], given['decoder_positions'].shape[1]
    depths = [
      len({name.split('/')[2] for name in given if name.startswith(f'weights/{role}/block')})
      for role in ('encoder', 'decoder')
    ]
    pixels = PATCH * PATCH * 3
    self.patch_embed, self.cls = nn.Linear(pixels, dim), nn.Parameter(torch.zeros(dim))
    self.encoder, self.norm = blocks(depths[0], dim, heads), nn.LayerNorm(dim, eps=1e-6)
    self.embed, self.mask = nn.Linear(dim, small), nn.Parameter(torch.zeros(small))
    self.decoder, self.last = blocks(depths[1], small, heads), nn.LayerNorm(small, eps=1e-6)
    self.pixels = nn.Linear(small, pixels)
    self.register_buffer('positions', given['positions'])
    self.register_buffer('decoder_positions', given['decoder_positions'])

  def forward(self, images: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Images and bool [b, n] -> the loss."""
    patches = cut(images)
    order = masked.to(torch.uint8).argsort(dim=1, stable=True)
    kept = order[:, : int((~masked[0]).sum())]
    rows = kept[:, :, None]
    seen = patches.gather(1, rows.expand(-1, -1, patches.shape[2]))
    x = self.patch_embed(seen) + self.positions[kept]
    x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
    for block in self.encoder:
      x = block(x)
    x = self.embed(self.norm(x))
    whole = self.mask.expand(len(x), patches.shape[1], -1).clone()
    whole = whole.scatter(1, rows.expand(-1, -1, x.shape[2]), x[:, 1:])
    x = torch.cat([x[:, :1], whole + self.decoder_positions], 1)
    for block in self.decoder:
      x = block(x)
    found = self.pixels(self.last(x))[:, 1:]
    target = (patches - patches.mean(-1, keepdim=True)) / (
      patches.var(-1, keepdim=True) + 1e-6
    ).sqrt()
    error = (found - target).square().mean(-1)
    return (error * masked).sum() / masked.sum()

  def read(self, given: Given) -> None:
    """Takes byoljax's weights, all of them."""
    plain = {'patch_embed', 'norm', 'embed', 'pixels'}
    state = {'positions': self.positions, 'decoder_positions': self.decoder_positions}
    for path, value in given.items():
      if not path.startswith('weights/'):
        continue
      _, role, *inside = path.split('/')
      if inside[0] in ('cls', 'mask'):
        state[inside[0]] = value
        continue
      leaf = 'bias' if inside[-1] == 'bias' else 'weight'
      if inside[0].startswith('block'):
        part = inside[1]
        part = f'attn.{part}' if part in ('qkv', 'proj') else part
        part = f'mlp.{part}' if part in ('fc1', 'fc2') else part
        name = f'{role}.{int(inside[0][5:]) - 1}.{part}.{leaf}'
      else:
        name = 'last' if (role, inside[0]) == ('decoder', 'norm') else inside[0]
        assert name in plain | {'last'}, name
        name = f'{name}.{leaf}'
      state[name] = value.T.contiguous() if inside[-1] == 'kernel' else value
    self.load_state_dict(state)


def under(given: Given, role: str) -> Given:
  """The arrays of a role, by the rest of their names."""
  return {name.removeprefix(role): x for name, x in given.items() if name.startswith(role)}


class Channelwise(nn.Module):
  """Pathak et al.'s layer between all places of each channel, ReLU, and a 1x1 convolution."""

  def __init__(self, given: Given):
    super().__init__()
    self.places = nn.Parameter(given['places'])
    kernel = given['mix_conv/kernel']
    self.mix = nn.Conv2d(kernel.shape[2], kernel.shape[3], 1)
    self.mix.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
    self.mix.bias.data = given['mix_conv/bias']

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> the same shape."""
    flat = torch.einsum('bcp,pcq->bcq', x.flatten(2), self.places)
    return self.mix(functional.relu(flat).view(x.shape))


class Decoder(nn.Module):
  """Stages that double the sides: 3x3 convolution, pixel shuffle, BN, ReLU; then a 3x3 one."""

  def __init__(self, given: Given):
    super().__init__()
    count = len({name.split('/')[0] for name in given if 'stage' in name and '_conv' in name})
    places = under(given, 'channelwise/')
    self.first = Channelwise(places) if places else nn.Identity()
    self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
    for stage in range(1, count + 1):
      kernel = given[f'stage{stage}_conv/kernel']
      # Flax has the channels of a square outermost, PyTorch's shuffle innermost.
      kernel = kernel.unflatten(3, (4, -1)).transpose(3, 4).flatten(3)
      conv = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1, bias=False)
      conv.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
      self.convs.append(conv)
      self.norms.append(nn.BatchNorm2d(kernel.shape[3] // 4))
    kernel = given['image_conv/kernel']
    self.last = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
    self.last.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
    self.last.bias.data = given['image_conv/bias']

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> [b, channels, H, W]."""
    x = self.first(x)
    for conv, norm in zip(self.convs, self.norms, strict=True):
      x = functional.relu(norm(functional.pixel_shuffle(conv(x), 2)))
    return self.last(x)


class ResNet18(torchvision.models.ResNet):
  """torchvision's, for images of 32 pixels, as wide and of as many channels as given weights."""

  def __init__(self, given: Given):
    block = torchvision.models.resnet.BasicBlock
    super().__init__(block, [2, 2, 2, 2])
    width, channels = given['conv1.weight'].shape[:2]
    self.inplanes = width
    self.conv1, self.bn1 = (
      nn.Conv2d(channels, width, 3, padding=1, bias=False),
      nn.BatchNorm2d(width),
    )
    self.layer1 = self._make_layer(block, width, 2)
    self.layer2 = self._make_layer(block, 2 * width, 2, stride=2)
    self.layer3 = self._make_layer(block, 4 * width, 2, stride=2)
    self.layer4 = self._make_layer(block, 8 * width, 2, stride=2)
    self.maxpool = self.fc = nn.Identity()
    self.load_state_dict(given)


class Autoencoder(nn.Module):
  """A ResNet-18 under a decoder."""

  def __init__(self, given: Given, encoder: str = 'encoder/', decoder: str = 'decoder/'):
    super().__init__()
    self.encoder, self.decoder = ResNet18(under(given, encoder)), Decoder(under(given, decoder))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, 3, H, W] -> the decoder's output."""
    net = self.encoder
    x = net.relu(net.bn1(net.conv1(x)))
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
      x = layer(x)
    return self.decoder(x)


RGB_TO_XYZ = torch.tensor(
  [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
  ]
)


def lab_of(pixels: torch.Tensor) -> torch.Tensor:
  """sRGB in [0, 1] -> CIE Lab (D65), [..., 3]."""
  linear = torch.where(pixels > 0.04045, ((pixels + 0.055) / 1.055) ** 2.4, pixels / 12.92)
  relative = linear @ (RGB_TO_XYZ / RGB_TO_XYZ.sum(1, keepdim=True)).T
  bend = 6 / 29
  f = torch.where(
    relative > bend**3, relative.clamp(min=1e-8) ** (1 / 3), relative / (3 * bend**2) + 4 / 29
  )
  x, y, z = f.unbind(-1)
  return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def gray_of(lightness: torch.Tensor) -> torch.Tensor:
  """Lightness [..., 1] -> normalized gray images [..., 3]."""
  f, bend = (lightness + 16) / 116, 6 / 29
  relative = torch.where(f > bend, f**3, 3 * bend**2 * (f - 4 / 29)).clamp(0, 1)
  value = torch.where(
    relative > 0.0031308, 1.055 * relative.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * relative
  )
  return ((value.clamp(0, 1) - MEAN) / STD).expand(*value.shape[:-1], 3)


def mae_loss(given: Given, ratio: float) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
  """The network, and a step's number -> loss."""
  model, images = MAE(given), given['images']
  model.read(given)

  def loss(step: int) -> torch.Tensor:
    if step < len(given['masked']):
      masked = given['masked'][step]
    else:
      noise = torch.rand(len(images), given['masked'].shape[2])
      kept = int(noise.shape[1] * (1 - ratio) + 1e-6)
      masked = noise.argsort(1).argsort(1) >= kept
    return model(images, masked)

  return model, loss


def denoising_loss(given: Given, ratio: float) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
  """As `mae_loss`."""
  del ratio
  model, images = Autoencoder(given), given['images']

  def loss(step: int) -> torch.Tensor:
    if step < len(given['noisy']):
      noisy = given['noisy'][step]
    else:
      noisy = images + NOISE / STD * torch.randn_like(images)
    return functional.mse_loss(model(channels_first(noisy)), channels_first(images))

  return model, loss


def color_loss(given: Given, ratio: float) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
  """As `mae_loss`."""
  del ratio
  model, images, bins = Autoencoder(given), given['images'], given['bins']

  def loss(step: int) -> torch.Tensor:
    del step
    with torch.no_grad():
      lab = lab_of(images * STD + MEAN)
      seen = channels_first(gray_of(lab[..., :1]))
    return color_cross_entropy(model(seen), lab, bins)

  return model, loss


def color_cross_entropy(
  logits: torch.Tensor, lab: torch.Tensor, bins: torch.Tensor
) -> torch.Tensor:
  """Of logits [b, bins, h, w] and the soft encoding of the colors [b, H, W, 3] of their places."""
  with torch.no_grad():
    ab = at_places(lab[..., 1:], logits)
    squared = torch.cdist(ab.reshape(-1, 2), bins).square()
    near, which = squared.topk(NEIGHBORS, largest=False)
    shares = (-near / (2 * SIGMA**2)).softmax(-1)
  logarithms = logits.permute(0, 2, 3, 1).reshape(-1, len(bins)).log_softmax(-1)
  return -(shares * logarithms.gather(1, which)).sum(1).mean()


def at_places(values: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
  """Means [b, h, w, C] of [b, H, W, C] at the places of outputs [b, n, h, w]."""
  pooled = functional.avg_pool2d(values.permute(0, 3, 1, 2), values.shape[1] // outputs.shape[2])
  return pooled.permute(0, 2, 3, 1)


def hole_loss(given: Given, ratio: float) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
  """As `mae_loss`; every image has the same hole."""
  del ratio
  model, images, painted = Autoencoder(given), given['images'], given['painted']

  def loss(step: int) -> torch.Tensor:
    del step
    seen = channels_first(images.masked_fill(painted[..., None], 0.0))
    error = (model(seen) - channels_first(images)).square().mean(1)
    return (error * painted).sum((1, 2)).mean() / painted.sum()

  return model, loss


def brain_loss(given: Given, ratio: float) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
  """As `mae_loss`: color of lightness, and lightness of color in equal intervals."""
  del ratio
  images, bins = given['images'], given['bins']
  halves = nn.ModuleList(
    Autoencoder(given, f'{half}/', f'{half}_decoder/') for half in ('first', 'second')
  )

  def loss(step: int) -> torch.Tensor:
    del step
    with torch.no_grad():
      lab = lab_of(images * STD + MEAN)
    colors = halves[0](channels_first(lab[..., :1] / 50 - 1))
    grays = halves[1](channels_first(lab[..., 1:] / 110))
    with torch.no_grad():
      count = grays.shape[1]
      which = at_places(lab[..., :1], grays)[..., 0] / (100 / count)
      which = which.floor().long().clamp(0, count - 1)
    return color_cross_entropy(colors, lab, bins) + functional.cross_entropy(grays, which)

  return halves, loss


LOSSES = {
  'mae': mae_loss,
  'denoising_autoencoder': denoising_loss,
  'colorization': color_loss,
  'context_encoder': hole_loss,
  'split_brain': brain_loss,
}


def main() -> None:
  """Prints what was measured as JSON."""
  path, kind, *numbers = sys.argv[1:]
  one_core()
  model, loss_of = LOSSES[kind](arrays_of(path), float(numbers[3]))
  if kind != 'mae':
    model = model.to(memory_format=torch.channels_last)
  phase = Phase(model.parameters(), loss_of)
  found = trained([phase], int(numbers[0]), float(numbers[1]), int(numbers[2]))
  print(json.dumps(found | {'versions': {'torch': torch.__version__}}))


if __name__ == '__main__':
  main()
