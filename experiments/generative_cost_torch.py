"""Image GPT in PyTorch, for `generative_cost.py`; train steps and samples of all its models.

Written from the papers, with PyTorch's fused attention and fused Adam; without gradients where none
are needed. Weights are read by byoljax's names. Nothing of byoljax or JAX is imported. The models
of convolutions: `generative_cost_pixels_torch.py`, `generative_cost_codecs_torch.py`.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Callable
import functools
import json
import sys
import time
from typing import Any

from generative_cost_codecs_torch import VQGAN, VQVAE, Codec, DiscreteVAE
from generative_cost_pixels_torch import PixelCNN, PixelCNNpp, Raster
import torch
from torch import nn
from torch.nn import functional
from torch_steps import Given, Phase, arrays_of, channels_first, one_core, trained

HEADS = 4


class Block(nn.Module):
  """Pre-norm attention and MLP."""

  def __init__(self, dim: int):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
    self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
    self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

  def forward(self, x: torch.Tensor, cache: tuple | None = None, place: int = 0) -> torch.Tensor:
    """[b, n, D] -> the same; with a cache, one token at a place."""
    q, k, v = (
      part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
      for part in self.qkv(self.norm1(x)).chunk(3, -1)
    )
    if cache is not None:
      keys, values = cache
      keys[:, :, place : place + 1], values[:, :, place : place + 1] = k, v
      k, v = keys[:, :, : place + 1], values[:, :, : place + 1]
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
    x = x + self.proj(y.transpose(1, 2).flatten(2))
    return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class GPT(nn.Module):
  """Tokens moved by one place behind a learned start -> logits."""

  def __init__(self, vocabulary: int, length: int, dim: int, depth: int):
    super().__init__()
    self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
    self.start = nn.Parameter(torch.zeros(1, dim))
    self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
    self.norm, self.logits = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)

  def forward(self, tokens: torch.Tensor) -> torch.Tensor:
    """[b, n] -> [b, n, K]."""
    x = self.tokens(tokens)
    x = torch.cat([self.start.expand(len(x), 1, -1), x[:, :-1]], 1) + self.positions.weight
    for block in self.blocks:
      x = block(x)
    return self.logits(self.norm(x))

  def step(self, before: torch.Tensor, place: int, caches: list) -> torch.Tensor:
    """The logits [b, K] at a place, given the token before it."""
    x = self.tokens(before)[:, None] if place else self.start.expand(len(before), 1, -1)
    x = x + self.positions.weight[place]
    for block, cache in zip(self.blocks, caches, strict=True):
      x = block(x, cache, place)
    return self.logits(self.norm(x))[:, 0]


def loaded(given: Given) -> GPT:
  """The network with byoljax's weights, all of which have to be used."""
  vocabulary, dim = given['encoder/transformer/token_table'].shape
  length = len(given['encoder/transformer/position_table'])
  depth = len({name.split('/')[2] for name in given if '/blocks_' in name})
  model = GPT(vocabulary, length, dim, depth)
  names = {'token_table': 'tokens.weight', 'position_table': 'positions.weight', 'start': 'start'}
  state = {}
  for path, value in given.items():
    name = path.removeprefix('encoder/transformer/').removeprefix('decoder/')
    *inside, leaf = name.replace('blocks_', 'blocks/').split('/')
    ending = 'bias' if leaf == 'bias' else 'weight'
    weight = value.T.contiguous() if leaf == 'kernel' else value
    state['.'.join([*inside, ending]) if inside else names[leaf]] = weight
  model.load_state_dict(state)
  return model


@torch.inference_mode()
def tokens(model: GPT, count: int, cached: bool) -> torch.Tensor:
  """Drawn sequences [count, n], with keys and values kept or without."""
  length, dim = model.positions.weight.shape
  drawn = torch.zeros(count, length, dtype=torch.long)
  shape = (count, HEADS, length, dim // HEADS)
  caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in model.blocks]
  for place in range(length):
    if cached:
      logits = model.step(drawn[:, max(place - 1, 0)], place, caches)
    else:
      logits = model(drawn)[:, place]
    drawn[:, place] = torch.multinomial(logits.softmax(-1), 1)[:, 0]
  return drawn


Draw = Callable[[int], Any]
Made = tuple[list[Phase], dict[str, Draw]]


def image_gpt(given: Given, images: torch.Tensor) -> Made:
  """The phases of a step, and how many images -> samples, by the way to draw them."""
  given = dict(given)
  palette, model = given.pop('encoder/palette')[None], loaded(given)

  def loss(step: int) -> torch.Tensor:
    del step
    codes = torch.cdist(images.flatten(1, 2), palette).argmin(-1)
    return functional.cross_entropy(model(codes).flatten(0, 1), codes.flatten())

  ways = {'with cache': True, 'without': False}
  drawn = {way: functools.partial(tokens, model, cached=ways[way]) for way in ways}
  return [Phase(model.parameters(), loss)], drawn


def pixels(kind: type[Raster], given: Given, images: torch.Tensor) -> Made:
  """As `image_gpt`."""
  model, seen = kind(given), channels_first(images)
  draw = functools.partial(model.sample, size=images.shape[1])
  way = 'a pass for each pixel' if model.passes == 1 else 'a pass for each color'
  return [Phase(model.parameters(), lambda step: model(seen))], {way: draw}


def codec(kind: type[Codec], given: Given, images: torch.Tensor) -> Made:
  """As `image_gpt`; nothing is drawn, which takes a prior."""
  given = dict(given)
  more = [given.pop('noise')] if 'noise' in given else []
  return kind(given).phases(channels_first(images), *more), {}


MODELS = {
  'image_gpt': image_gpt,
  'pixelcnn': functools.partial(pixels, PixelCNN),
  'gated_pixelcnn': functools.partial(pixels, PixelCNN),
  'pixelcnn_pp': functools.partial(pixels, PixelCNNpp),
  'vq_vae': functools.partial(codec, VQVAE),
  'vq_gan': functools.partial(codec, VQGAN),
  'dvae': functools.partial(codec, DiscreteVAE),
}


def main() -> None:
  """Prints what was measured as JSON."""
  path, name, *numbers = sys.argv[1:]
  steps, count, rate, checked = int(numbers[0]), int(numbers[1]), float(numbers[2]), int(numbers[3])
  one_core()
  given = arrays_of(path)
  images = given.pop('images')
  phases, ways = MODELS[name](given, images)
  found = trained(phases, steps, rate, checked)
  speeds = {}
  for way, draw in ways.items():
    began = time.process_time()
    draw(count)
    speeds[way] = count * images.shape[1] * images.shape[2] / (time.process_time() - began)
  found |= {'pixels_per_s': speeds, 'versions': {'torch': torch.__version__}}
  print(json.dumps(found))


if __name__ == '__main__':
  main()
