"""Image GPT in PyTorch, for `generative_cost.py`: a train step, and samples.

Written from the papers, with PyTorch's fused attention and fused Adam; without gradients where none
are needed. Weights are read by byoljax's names. Nothing of byoljax or JAX is imported.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

import json
import os
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

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


def loaded(given: dict[str, np.ndarray]) -> GPT:
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
    if not inside:
      state[names[leaf]] = torch.from_numpy(value)
      continue
    weight = value.T if leaf == 'kernel' else value
    ending = 'bias' if leaf == 'bias' else 'weight'
    state['.'.join([*inside, ending])] = torch.from_numpy(np.ascontiguousarray(weight))
  model.load_state_dict(state)
  return model


def trained(
  model: GPT, images: torch.Tensor, palette: torch.Tensor, steps: int, rate: float, checked: int
) -> tuple[list[float], list[float]]:
  """Losses, and CPU seconds of each step behind the checked ones."""
  adam = torch.optim.Adam(model.parameters(), rate, fused=True)
  losses, seconds = [], []
  for _ in range(checked + steps):
    began = time.process_time()
    tokens = torch.cdist(images, palette[None]).argmin(-1)
    adam.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    adam.step()
    losses.append(loss.item())
    seconds.append(time.process_time() - began)
  return losses, seconds[checked:]


@torch.inference_mode()
def tokens_a_second(model: GPT, count: int) -> dict[str, float]:
  """Tokens in a CPU second, with keys and values kept and without."""
  length, dim = model.positions.weight.shape
  found = {}
  for name, cached in (('with cache', True), ('without', False)):
    tokens = torch.zeros(count, length, dtype=torch.long)
    shape = (count, HEADS, length, dim // HEADS)
    caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in model.blocks]
    began = time.process_time()
    for place in range(length):
      if cached:
        logits = model.step(tokens[:, max(place - 1, 0)], place, caches)
      else:
        logits = model(tokens)[:, place]
      tokens[:, place] = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    found[name] = tokens.numel() / (time.process_time() - began)
  return found


def main() -> None:
  """Prints what was measured as JSON."""
  path, *numbers = sys.argv[1:]
  steps, count, checked = int(numbers[0]), int(numbers[1]), int(numbers[3])
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  torch.set_num_threads(1)
  given = dict(np.load(path))
  images, palette = (torch.from_numpy(given.pop(name)) for name in ('images', 'palette'))
  model = loaded(given)
  losses, seconds = trained(model, images.flatten(1, 2), palette, steps, float(numbers[2]), checked)
  found = {'losses': losses, 'cpu_s': seconds, 'tokens_per_s': tokens_a_second(model, count)}
  print(json.dumps(found | {'versions': {'torch': torch.__version__}}))


if __name__ == '__main__':
  main()
