"""Makes dinov2.npz: features of DINOv2's ViTs in timm, with the authors' resampling of positions.

timm resamples positions in its own way; the authors' is written out here (dinov2/models/
vision_transformer.py: with registers `interpolate_antialias` and no offset, else an offset of 0.1).

Run with PyTorch and timm installed: python tests/golden/make_dinov2.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import math
import pathlib

from imported_tensors import DINOV2S, VIT, vit, vit_images
import numpy as np
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
import torch


def for_map(positions: torch.Tensor, height: int, width: int, registers: bool) -> torch.Tensor:
  """Positions [1,n,D] of patches, without the class token's, for a map of another size."""
  side = math.isqrt(positions.shape[1])
  table = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
  if (height, width) != (side, side):
    how = {'size': (height, width), 'antialias': True}
    if not registers:
      how = {'scale_factor': tuple((size + 0.1) / side for size in (height, width))}
    table = torch.nn.functional.interpolate(table, mode='bicubic', **how)
  assert table.shape[2:] == (height, width)
  return table.flatten(2).transpose(1, 2)


def main() -> None:
  results = {}
  for case, (arguments, height, width) in DINOV2S.items():
    more = {'mlp_layer': SwiGLUPacked, 'act_layer': torch.nn.SiLU} if case == 'swiglu' else {}
    model = VisionTransformer(**VIT | arguments | more).double().eval()
    state = {
      name: torch.from_numpy(vit(name, tuple(value.shape))).double()
      for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    patch, registers = VIT['patch_size'], 'reg_tokens' in arguments
    x = torch.from_numpy(vit_images(height, width).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
      table, cls = model.pos_embed, model.cls_token
      if not registers:
        table, cls = table[:, 1:], cls + table[:, :1]
      patches = patches + for_map(table, height // patch, width // patch, registers)
      first = [cls, model.reg_token] if registers else [cls]
      tokens = torch.cat([*(each.expand(len(x), -1, -1) for each in first), patches], dim=1)
      tokens = model.norm(model.blocks(tokens))
      if (height, width) == (VIT['img_size'],) * 2:  # Nothing is resampled: timm's own pass.
        assert torch.equal(tokens, model.forward_features(x))
      y = torch.cat([tokens[:, 0], tokens[:, 5 if registers else 1 :].mean(1)], dim=1)
    results[case] = y.numpy().astype(np.float32)
    print(case, y.shape, y.std().item())
  path = pathlib.Path(__file__).with_name('dinov2.npz')
  np.savez_compressed(path, **results)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
