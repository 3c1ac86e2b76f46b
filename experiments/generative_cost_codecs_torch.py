"""VQ-VAE, VQ-GAN and the discrete VAE in PyTorch, for `generative_cost_torch.py`.

Written from the papers (arXiv 1711.00937 with moving averages, appendix A.1; 2012.09841, with the
order of the authors' steps; 2102.12092), in `channels_last`. Modules have byoljax's names, and
sizes are those of its weights. Nothing of byoljax or JAX is imported.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from torch_steps import Given, Phase, read

MEAN, STD = 0.5, 0.25
DECAY, BETA, EPSILON = 0.99, 0.25, 1e-5
EDGES, ADVERSARIAL = 0.1, 0.8  # weights in VQ-GAN
DIVERGENCE, TEMPERATURE, MARGIN = 0.1, 0.5, 0.1  # of the discrete VAE


class Residual(nn.Module):
  """x + conv1x1(relu(conv3x3(relu(x))))."""

  def __init__(self, given: Given, path: str):
    super().__init__()
    self.conv1, self.conv2 = (conv(given, f'{path}/conv{number}') for number in (1, 2))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[b, C, h, w] -> the same."""
    return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


def conv(given: Given, path: str, stride: int = 0) -> nn.Conv2d:
  """As large as the weights; kernels of 4 have stride 2 where nothing else is asked for."""
  edge, _, inside, outside = given[f'{path}/kernel'].shape
  stride = stride or (2 if edge == 4 else 1)
  bias = f'{path}/bias' in given
  return nn.Conv2d(inside, outside, edge, stride, (edge - 1) // 2, bias=bias)


class Quantizer(nn.Module):
  """The nearest code, straight through; codes follow by moving averages after they were read."""

  def __init__(self, given: Given):
    super().__init__()
    self.latents_conv = conv(given, 'quantizer/latents_conv')
    for name in ('counts', 'sums'):
      self.register_buffer(name, torch.empty_like(given[f'quantizer/{name}']))

  def forward(self, x: torch.Tensor, follow: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, C, h, w] -> the codes' vectors [b, D, h, w], and the commitment."""
    z = self.latents_conv(x).permute(0, 2, 3, 1)
    with torch.no_grad():
      flat, total = z.flatten(0, 2), self.counts.sum()
      smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
      book = self.sums / smoothed[:, None]
      chosen = torch.addmm(book.square().sum(1), flat, book.T, alpha=-2).argmin(1)
      vectors = book[chosen].view(z.shape)
      if follow:
        used = torch.bincount(chosen, minlength=len(book)).float()
        self.counts.lerp_(used, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(book).index_add_(0, chosen, flat), 1 - DECAY)
    quantized = z + (vectors - z).detach()
    return quantized.permute(0, 3, 1, 2), functional.mse_loss(z, vectors)


class GumbelQuantizer(nn.Module):
  """A relaxed draw of a code by its logits."""

  def __init__(self, given: Given):
    super().__init__()
    self.logits_conv = conv(given, 'quantizer/logits_conv')
    self.codebook = nn.Parameter(torch.empty_like(given['quantizer/codebook']))

  def forward(
    self, x: torch.Tensor, noise: torch.Tensor | None
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, C, h, w], noise [b, h, w, K] or one of its own -> vectors [b, D, h, w], and logits."""
    logits = self.logits_conv(x).permute(0, 2, 3, 1)
    if noise is None:
      noise = -torch.empty_like(logits).exponential_().log()
    shares = ((logits + noise) / TEMPERATURE).softmax(-1)
    return (shares @ self.codebook).permute(0, 3, 1, 2), logits


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


def shuffled(path: str, value: torch.Tensor) -> torch.Tensor:
  """Flax has the channels of a square outermost, PyTorch's shuffle innermost."""
  if not path.startswith('decoder/up'):
    return value
  return value.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2)


class Codec(nn.Module):
  """Encoder and decoder; what is in between is `quantizer`."""

  def __init__(self, given: Given, quantizer: type[nn.Module]):
    super().__init__()
    self.encoder, self.decoder = (chain(given, role) for role in ('encoder', 'decoder'))
    self.quantizer = quantizer(given)

  def latents(self, images: torch.Tensor) -> torch.Tensor:
    """What is quantized, before the quantizer's own convolution."""
    return functional.relu(self.encoder(images))

  def phases(self, images: torch.Tensor, *more: torch.Tensor) -> list[Phase]:
    """Of a step on normalized images [b, C, H, W]."""
    return [Phase(self.parameters(), lambda step: self.loss(step, images, *more))]


class VQVAE(Codec):
  """Squared errors and the commitment."""

  def __init__(self, given: Given):
    super().__init__(given, Quantizer)
    read(self, {path: shuffled(path, value) for path, value in given.items()})

  def loss(self, step: int, images: torch.Tensor) -> torch.Tensor:
    """The codes follow."""
    del step
    quantized, commitment = self.quantizer(self.latents(images))
    return functional.mse_loss(self.decoder(quantized), images) + BETA * commitment


class DiscreteVAE(Codec):
  """A logit-Laplace likelihood, and the divergence of the codes from equal ones."""

  def __init__(self, given: Given):
    super().__init__(given, GumbelQuantizer)
    read(self, {path: shuffled(path, value) for path, value in given.items()})

  def loss(self, step: int, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noise [n, b, h, w, K] is of the first n steps; others draw their own."""
    own = noise[step] if step < len(noise) else None
    vectors, logits = self.quantizer(self.latents(images), own)
    mu, log_scale = self.decoder(vectors).chunk(2, 1)
    x = (1 - 2 * MARGIN) * (images * STD + MEAN) + MARGIN
    distance = (torch.logit(x) - mu).abs()
    nats = distance * torch.exp(-log_scale) + log_scale + torch.log(2 * x * (1 - x))
    shares = logits.log_softmax(-1)
    divergence = math.log(shares.shape[-1]) + (shares.exp() * shares).sum(-1)
    return nats.mean() + DIVERGENCE * divergence.sum((1, 2)).mean() / images[0].numel()


class Patches(nn.Sequential):
  """A logit for every patch."""

  def __init__(self, given: Given):
    super().__init__()
    stages = sum(path.endswith('_conv/kernel') and '/stage' in path for path in given)
    for stage in range(1, stages + 1):
      name = f'stage{stage}_conv'
      self.add_module(name, conv(given, f'discriminator/{name}', 2 if stage < stages else 1))
      if stage > 1:
        features = self[-1].out_channels
        self.add_module(f'stage{stage}_bn', nn.BatchNorm2d(features))
      self.append(nn.LeakyReLU(0.2))
    self.add_module('logits_conv', conv(given, 'discriminator/logits_conv', 1))


class VQGAN(Codec):
  """A codec and a discriminator of patches, each with its part of a step."""

  def __init__(self, given: Given):
    super().__init__(given, Quantizer)
    self.discriminator = Patches(given)
    read(self, {path: shuffled(path, value) for path, value in given.items()})
    last = [each for each in self.decoder if isinstance(each, nn.Conv2d)][-1]
    self.last_kernel = last.weight

  def phases(self, images: torch.Tensor, *more: torch.Tensor) -> list[Phase]:
    """Of a step on normalized images [b, C, H, W]."""
    del more
    judge = list(self.discriminator.parameters())
    codec = [each for each in self.parameters() if not any(each is other for other in judge)]

    def deceive(step: int) -> torch.Tensor:
      del step
      self.discriminator.requires_grad_(False)
      quantized, commitment = self.quantizer(self.latents(images))
      output = self.decoder(quantized)
      error = functional.l1_loss(output, images) + EDGES * edges(output - images)
      fooled = -self.discriminator(output).mean()
      above, below = (
        torch.autograd.grad(term, self.last_kernel, retain_graph=True)[0].norm()
        for term in (error, fooled)
      )
      balance = (above / (below + 1e-4)).clamp(0, 1e4)
      return error + BETA * commitment + ADVERSARIAL * balance * fooled

    def judge_both(step: int) -> torch.Tensor:
      del step
      self.discriminator.requires_grad_(True)
      with torch.no_grad():
        fake = self.decoder(self.quantizer(self.latents(images), follow=False)[0])
      real, made = self.discriminator(images), self.discriminator(fake)
      return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + made).mean())

    return [Phase(codec, deceive), Phase(judge, judge_both)]


def edges(error: torch.Tensor) -> torch.Tensor:
  """Mean absolute differences between neighbors, of rows and of columns."""
  return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
