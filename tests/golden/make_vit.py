"""Makes vit.npz: timm's VisionTransformer with fixed sine-cosine positions, and parameter counts.

Run with PyTorch and timm installed: python tests/golden/make_vit.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

import numpy as np
import timm
from timm.models.vision_transformer import VisionTransformer
import torch
from vit_tensors import BATCH, CASES, DEPTH, DIM, GRID, HEADS, PATCH, images, tensor

COUNTED = {
  'vit_tiny': 'vit_tiny_patch16_224',
  'vit_small': 'vit_small_patch16_224',
  'vit_base': 'vit_base_patch16_224',
}


def positions(rows: int, columns: int) -> torch.Tensor:
  """MoCo v3's table [1,1 + rows * columns,DIM] in float64, zero for the class token.

  Coordinates are the centers of the patches, measured in patches of the GRID x GRID map.
  """
  frequencies = 1.0 / 10000.0 ** (torch.arange(DIM // 4, dtype=torch.float64) / (DIM // 4))
  table = torch.zeros(1 + rows * columns, DIM, dtype=torch.float64)
  for row in range(rows):
    for column in range(columns):
      y = ((row + 0.5) / rows * GRID - 0.5) * frequencies
      x = ((column + 0.5) / columns * GRID - 0.5) * frequencies
      table[1 + row * columns + column] = torch.cat([y.sin(), y.cos(), x.sin(), x.cos()])
  return table[None]


def build(height: int, width: int, pool: str) -> VisionTransformer:
  """The network without classifier, every tensor drawn by its name, in float64."""
  model = VisionTransformer(
    img_size=(height, width),
    patch_size=PATCH,
    num_classes=0,
    global_pool='token' if pool == 'cls' else 'avg',
    embed_dim=DIM,
    depth=DEPTH,
    num_heads=HEADS,
    mlp_ratio=4.0,
    qkv_bias=True,
    class_token=True,
    fc_norm=False,  # the final norm comes before the pooling
  ).double()
  state = {
    name: positions(height // PATCH, width // PATCH)
    if name == 'pos_embed'
    else torch.from_numpy(tensor(name, tuple(value.shape))).double()
    for name, value in model.state_dict().items()
  }
  model.load_state_dict(state)
  assert model.norm.eps == 1e-6 and model.blocks[0].norm1.eps == 1e-6
  return model.eval()


def main() -> None:
  results = {}
  for name, (height, width, pool) in CASES.items():
    model, taps = build(height, width, pool), {}
    model.blocks[0].register_forward_hook(lambda m, i, output, t=taps: t.update(tokens=output))
    x = images(height, width)
    assert x.shape == (BATCH, height, width, 3)
    with torch.no_grad():
      y = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double())
    results |= {name: y.numpy(), f'{name}/tokens1': taps['tokens'].numpy()}
    print(name, y.shape, y.std().item())
  for ours, theirs in COUNTED.items():
    model = timm.create_model(theirs, pretrained=False, num_classes=0)
    count = sum(p.numel() for p in model.parameters()) - model.pos_embed.numel()
    results[f'count/{ours}'] = np.int64(count)
    print(ours, count)
  path = pathlib.Path(__file__).with_name('vit.npz')
  single = {k: v.astype(np.float32) if v.ndim else v for k, v in results.items()}
  np.savez_compressed(path, **single)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
