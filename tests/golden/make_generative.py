"""Makes generative.npz: networks and losses of the generative methods in PyTorch, in float64.

Written from the papers: PixelCNN (arXiv 1601.06759) and its gated form (1606.05328) by masked
kernels, PixelCNN++ (1701.05517) by padding, GPT (Radford et al. 2019) with PyTorch's attention, and
the losses of VQ-VAE (1711.00937), VQ-GAN (2012.09841) and DALL-E's discrete VAE (2102.12092) with
PyTorch's distributions. Weights and inputs are drawn by name (`philox`) on both sides, in our
layout; the file holds outputs, losses and gradients.
Run with PyTorch installed: python tests/golden/make_generative.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import math
import pathlib

import numpy as np
import philox
import torch
from torch import distributions
from torch.nn import functional

RESULTS: dict[str, np.ndarray] = {}
SIDE, BATCH, LEVELS = 6, 2, 5


class Weights:
  """The leaves of a network, drawn by their path; those that were asked for have gradients."""

  def __init__(self, case: str):
    self.case, self.leaves = case, {}

  def __call__(self, path: str, *shape: int) -> torch.Tensor:
    """A leaf in our layout."""
    if path not in self.leaves:
      fan = math.prod(shape[:-1]) if len(shape) > 1 else 4
      drawn = philox.uniform(f'{self.case}/{path}', shape, -1.7 / fan**0.5, 1.7 / fan**0.5)
      self.leaves[path] = torch.from_numpy(drawn).double().requires_grad_()
    return self.leaves[path]


def put(name: str, value: torch.Tensor) -> None:
  """Stores a result as float32."""
  RESULTS[name] = value.detach().numpy().astype(np.float32)


def keep(
  case: str, output: torch.Tensor, loss: torch.Tensor, weights: Weights, *paths: str
) -> None:
  """Stores an output's mean over examples, a loss, and its gradient in some leaves."""
  put(f'{case}/output', output.mean(0))
  put(f'{case}/loss', loss)
  loss.backward()
  for path in paths:
    put(f'{case}/gradient/{path}', weights.leaves[path].grad)


def image(case: str, channels: int = 3) -> torch.Tensor:
  """Images in [-1, 1), channels first."""
  drawn = philox.uniform(f'{case}/image', (BATCH, SIDE, SIDE, channels), -1.0, 1.0)
  return torch.from_numpy(drawn).double().permute(0, 3, 1, 2)


def numbers(case: str, levels: int, *shape: int) -> torch.Tensor:
  """Whole numbers below `levels`."""
  return torch.from_numpy(philox.uniform(f'{case}/numbers', shape, 0, levels).astype(np.int64))


def color(channels: int) -> torch.Tensor:
  """Which of three colors a feature belongs to."""
  return torch.arange(channels) * 3 // channels


def masked(
  weights: Weights, path: str, x: torch.Tensor, out: int, k: int, kind: str, parts: int = 1
):
  """A k x k convolution of mask A or B, whose kernel we hold without the rows below the middle."""
  inside, rows = x.shape[1], (k + 1) // 2
  kernel = weights(f'{path}/kernel', rows, k, inside, out).permute(3, 2, 0, 1)
  full = functional.pad(kernel, (0, 0, 0, k - rows))
  mask = torch.zeros(out, inside, k, k)
  mask[:, :, : k // 2] = 1.0
  mask[:, :, k // 2, : k // 2] = 1.0
  asked, given = color(out)[:, None], color(inside)[None]
  mask[:, :, k // 2, k // 2] = (asked > given if kind == 'A' else asked >= given).double()
  return functional.conv2d(x, full * mask, weights(f'{path}/bias', out), padding=k // 2)


def gate(x: torch.Tensor) -> torch.Tensor:
  """tanh of one half times the sigmoid of the other."""
  a, b = x.chunk(2, 1)
  return torch.tanh(a) * torch.sigmoid(b)


def gated_layer(w: Weights, path: str, streams: tuple, channels: int, k: int, first: bool) -> tuple:
  """Figure 2 of arXiv 1606.05328."""
  vertical, horizontal = streams
  rows = (k + 1) // 2
  kernel = w(f'{path}/vertical/kernel', rows, k, vertical.shape[1], 2 * channels)
  padded = functional.pad(vertical, (k // 2, k // 2, rows - 1, 0))
  down = functional.conv2d(
    padded, kernel.permute(3, 2, 0, 1), w(f'{path}/vertical/bias', 2 * channels)
  )
  above = functional.pad(down, (0, 0, 1, 0))[:, :, :-1]
  inside = horizontal.shape[1]
  row = w(f'{path}/horizontal/kernel', 1, k, inside, 2 * channels).permute(3, 2, 0, 1)
  mask = torch.zeros(2 * channels, inside, 1, k)
  mask[..., : k // 2] = 1.0
  asked, given = color(channels).repeat(2)[:, None], color(inside)[None]
  mask[:, :, 0, k // 2] = (asked > given if first else asked >= given).double()
  across = functional.conv2d(
    horizontal, row * mask, w(f'{path}/horizontal/bias', 2 * channels), padding=(0, k // 2)
  )
  link = w(f'{path}/between/kernel', 1, 1, 2 * channels, 2 * channels).permute(3, 2, 0, 1)
  across = across + functional.conv2d(above, link, w(f'{path}/between/bias', 2 * channels))
  y = masked(w, f'{path}/out', gate(across), channels, 1, 'B')
  return gate(down), y if first else horizontal + y


def pixelcnn(gated: bool) -> None:
  """A first layer, one block, the head; the cross-entropy of every color."""
  case, channels = 'gated_pixelcnn' if gated else 'pixelcnn', 6
  w, x = Weights(case), image(case)
  if gated:
    streams = gated_layer(w, 'encoder/layer0', (x, x), channels, 5, True)
    _, y = gated_layer(w, 'encoder/layer1', streams, channels, 3, False)
  else:
    y = masked(w, 'encoder/layer0', x, channels, 5, 'A')
    z = masked(w, 'encoder/layer1/conv1', y.relu(), channels // 2, 1, 'B')
    z = masked(w, 'encoder/layer1/conv2', z.relu(), channels // 2, 3, 'B')
    y = y + masked(w, 'encoder/layer1/conv3', z.relu(), channels, 1, 'B')
  y = masked(w, 'decoder/conv', y.relu(), 9, 1, 'B')
  y = masked(w, 'decoder/logits', y.relu(), 3 * LEVELS, 1, 'B')
  logits = y.reshape(BATCH, 3, LEVELS, SIDE, SIDE).permute(0, 3, 4, 1, 2)
  loss = functional.cross_entropy(
    logits.reshape(-1, LEVELS), numbers(case, LEVELS, BATCH, SIDE, SIDE, 3).reshape(-1)
  )
  first = 'encoder/layer0/horizontal/kernel' if gated else 'encoder/layer0/kernel'
  keep(case, logits, loss, w, first, 'decoder/conv/kernel')


def shifted(w: Weights, path: str, x: torch.Tensor, out: int, kernel: tuple, right: bool, stride=1):
  """A convolution that sees the rows above, and columns up to its own or on both sides."""
  rows, columns = kernel
  own = w(f'{path}/kernel', rows, columns, x.shape[1], out).permute(3, 2, 0, 1)
  sides = (columns // 2, columns // 2) if right else (columns - 1, 0)
  padded = functional.pad(x, (*sides, rows - 1, 0))
  return functional.conv2d(padded, own, w(f'{path}/bias', out), stride=stride)


def doubled(w: Weights, path: str, x: torch.Tensor, out: int, kernel: tuple, right: bool):
  """The transposed one of stride 2. JAX does not turn the kernel around, PyTorch does."""
  rows, columns = kernel
  own = w(f'{path}/kernel', rows, columns, x.shape[1], out).flip(0, 1).permute(2, 3, 0, 1)
  y = functional.conv_transpose2d(x, own, stride=2)
  left = columns // 2 if right else 0
  y = y[:, :, : 2 * x.shape[2], left : left + 2 * x.shape[3]]
  return y + w(f'{path}/bias', out)[None, :, None, None]


def elu2(x: torch.Tensor) -> torch.Tensor:
  """concat_elu."""
  return functional.elu(torch.cat([x, -x], 1))


def block(
  w: Weights, path: str, x: torch.Tensor, other, kernel: tuple, right: bool
) -> torch.Tensor:
  """A gated residual block."""
  channels = x.shape[1]
  y = shifted(w, f'{path}/conv1', elu2(x), channels, kernel, right)
  if other is not None:
    y = y + shifted(w, f'{path}/other', elu2(other), channels, (1, 1), False)
  a, b = shifted(w, f'{path}/conv2', elu2(y), 2 * channels, kernel, right).chunk(2, 1)
  return x + a * torch.sigmoid(b)


def pair(w: Weights, path: str, streams: tuple, shortcut: tuple = (None, None)) -> tuple:
  """Both streams of a layer."""
  u = block(w, f'{path}_above', streams[0], shortcut[0], (2, 3), True)
  other = u if shortcut[1] is None else torch.cat([u, shortcut[1]], 1)
  return u, block(w, f'{path}_left', streams[1], other, (2, 2), False)


def mixture_nll(output: torch.Tensor, x: torch.Tensor, levels: int) -> torch.Tensor:
  """Equations 2 and 3 of arXiv 1701.05517 by differences of distributions: [..., M, 10]."""
  logits, means, scales = output[..., 0], output[..., 1:4], output[..., 4:7].clamp(min=-7).exp()
  c = output[..., 7:].tanh()
  red, green = x[..., None, 0], x[..., None, 1]
  means = torch.stack([
    means[..., 0], means[..., 1] + c[..., 0] * red,
    means[..., 2] + c[..., 1] * red + c[..., 2] * green,
  ], -1)  # fmt: skip
  half, values = 1 / (levels - 1), x[..., None, :]
  above = torch.sigmoid((values + half - means) / scales)
  below = torch.sigmoid((values - half - means) / scales)
  above = torch.where(values > 1 - half, torch.ones_like(above), above)
  below = torch.where(values < half - 1, torch.zeros_like(below), below)
  weights = torch.softmax(logits, -1)
  return -(weights * (above - below).prod(-1)).sum(-1).log()


def pixelcnn_pp() -> None:
  """Two resolutions with one block each, and the mixture's loss."""
  case, channels, mixtures = 'pixelcnn_pp', 4, 2
  w, x = Weights(case), image(case)
  x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
  lower = lambda y: functional.pad(y, (0, 0, 1, 0))[:, :, :-1]  # noqa: E731
  above = lower(shifted(w, 'encoder/above', x, channels, (2, 3), True))
  row = lower(shifted(w, 'encoder/row', x, channels, (1, 3), True))
  left = functional.pad(shifted(w, 'encoder/left', x, channels, (2, 1), False), (1, 0))[..., :-1]
  start = (above, row + left)
  one = pair(w, 'encoder/down0_0', start)
  halved = (
    shifted(w, 'encoder/halve0_above', one[0], channels, (2, 3), True, 2),
    shifted(w, 'encoder/halve0_left', one[1], channels, (2, 2), False, 2),
  )
  y = pair(w, 'encoder/down1_0', halved)
  y = pair(w, 'encoder/up1_0', y, halved)
  y = (
    doubled(w, 'encoder/double1_above', y[0], channels, (2, 3), True),
    doubled(w, 'encoder/double1_left', y[1], channels, (2, 2), False),
  )
  y = pair(w, 'encoder/up0_0', y, one)
  y = pair(w, 'encoder/up0_1', y, start)
  output = shifted(w, 'decoder/conv', functional.elu(y[1]), 10 * mixtures, (1, 1), False)
  output = output.permute(0, 2, 3, 1).reshape(BATCH, SIDE, SIDE, mixtures, 10)
  truth = 2 * numbers(case, LEVELS, BATCH, SIDE, SIDE, 3).double() / (LEVELS - 1) - 1
  loss = mixture_nll(output, truth, LEVELS).mean()
  keep(case, output, loss, w, 'encoder/left/kernel', 'encoder/double1_left/kernel')


def token_transformer() -> None:
  """GPT's pre-norm blocks with PyTorch's attention, after a learned first token."""
  case, dim, heads, depth, length, vocabulary = 'token_transformer', 8, 2, 2, 7, 5
  w = Weights(case)
  tokens = numbers(case, vocabulary, BATCH, length)
  norm = lambda path, x: functional.layer_norm(  # noqa: E731
    x, (dim,), w(f'{path}/scale', dim), w(f'{path}/bias', dim), 1e-5
  )
  linear = lambda path, x, out: (  # noqa: E731
    x @ w(f'{path}/kernel', x.shape[-1], out) + w(f'{path}/bias', out)
  )
  x = w('token_table', vocabulary, dim)[tokens]
  x = torch.cat([w('start', 1, dim).expand(BATCH, 1, dim), x[:, :-1]], 1)
  x = x + w('position_table', length, dim)
  for number in range(depth):
    path = f'blocks_{number}'
    made = linear(f'{path}/qkv', norm(f'{path}/norm1', x), 3 * dim)
    q, k, v = (part.reshape(BATCH, length, heads, -1).transpose(1, 2) for part in made.chunk(3, -1))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + linear(f'{path}/proj', y.transpose(1, 2).reshape(BATCH, length, dim), dim)
    y = functional.gelu(linear(f'{path}/fc1', norm(f'{path}/norm2', x), 4 * dim))
    x = x + linear(f'{path}/fc2', y, dim)
  output = norm('norm', x)
  loss = functional.cross_entropy(output[..., :vocabulary].reshape(-1, vocabulary), tokens.ravel())
  keep(case, output, loss, w, 'token_table', 'blocks_0/qkv/kernel')


def draw(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
  """A leaf tensor."""
  return torch.from_numpy(philox.uniform(name, shape, low, high)).double().requires_grad_()


def vector_quantization() -> None:
  """The nearest code, straight through, both terms, and the weight of the discriminator's part."""
  z, book = draw('vq/z', 12, 3), draw('vq/book', 5, 3)
  chosen = torch.cdist(z, book).argmin(1)
  vectors = book[chosen]
  target = draw('vq/target', 12, 3).detach()
  quantized = z + (vectors - z).detach()
  loss = (quantized - target).abs().mean()
  loss = loss + 0.25 * functional.mse_loss(z, vectors.detach())
  loss = loss + functional.mse_loss(vectors, z.detach())
  loss.backward()
  put('vq/loss', loss)
  RESULTS['vq/codes'] = chosen.numpy()
  put('vq/gradient/z', z.grad)
  put('vq/gradient/book', book.grad)
  reconstruction, adversarial = draw('vq/above', 4, 5), draw('vq/below', 4, 5, low=-0.1, high=0.1)
  put('vq/adaptive_weight', reconstruction.norm() / (adversarial.norm() + 1e-4))
  real, fake = draw('vq/real', 20, low=-2, high=2), draw('vq/fake', 20, low=-2, high=2)
  hinge = 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())
  put('vq/hinge', hinge)
  put('vq/fool', -fake.mean())


def discrete_vae() -> None:
  """The likelihood as a transformed Laplace distribution, the divergence, the relaxed draw."""
  mu, log_scale = draw('dvae/mu', 30), draw('dvae/log_scale', 30)
  x = draw('dvae/x', 30, low=0.1, high=0.9).detach()
  density = distributions.TransformedDistribution(
    distributions.Laplace(mu, log_scale.exp()), distributions.SigmoidTransform()
  )
  loss = -density.log_prob(x).mean()
  loss.backward()
  put('dvae/likelihood', loss)
  put('dvae/gradient/mu', mu.grad)
  put('dvae/gradient/log_scale', log_scale.grad)
  logits = draw('dvae/logits', 6, 7, low=-2, high=2)
  uniform = distributions.Categorical(logits=torch.zeros(6, 7).double())
  divergence = distributions.kl_divergence(distributions.Categorical(logits=logits), uniform).mean()
  divergence.backward()
  put('dvae/divergence', divergence)
  put('dvae/gradient/logits', logits.grad)


def main() -> None:
  """Writes the file."""
  pixelcnn(gated=False)
  pixelcnn(gated=True)
  pixelcnn_pp()
  token_transformer()
  vector_quantization()
  discrete_vae()
  np.savez_compressed(pathlib.Path(__file__).with_name('generative.npz'), **RESULTS)


if __name__ == '__main__':
  main()
