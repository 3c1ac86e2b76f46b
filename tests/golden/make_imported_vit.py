"""Makes imported_vit.npz: features of timm's ViTs, as timm, MoCo v3 and DINO use them.

Run with PyTorch and timm installed: python tests/golden/make_imported_vit.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import math
import pathlib

from imported_tensors import VIT, VITS, moco_v3_positions, vit, vit_images
import numpy as np
from timm.models.vision_transformer import VisionTransformer
import torch


def for_map(positions: torch.Tensor, height: int, width: int) -> torch.Tensor:
  """DINO's rule for images of another size: bicubic, by a scale that is a little too large."""
  count = positions.shape[1] - 1
  side = math.isqrt(count)
  table = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
  scale = tuple((size + 0.1) / math.sqrt(count) for size in (height, width))
  table = torch.nn.functional.interpolate(table, scale_factor=scale, mode='bicubic')
  assert table.shape[2:] == (height, width)
  return torch.cat([positions[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


def main() -> None:
  results = {}
  for case, (arguments, height, width) in VITS.items():
    model = VisionTransformer(**VIT | arguments).double().eval()
    state = {
      name: torch.from_numpy(vit(name, tuple(value.shape))).double()
      for name, value in model.state_dict().items()
    }
    patch, dim = VIT['patch_size'], VIT['embed_dim']
    if case == 'moco_v3':
      state['pos_embed'] = torch.from_numpy(
        moco_v3_positions(VIT['img_size'] // patch, dim)
      ).double()
    model.load_state_dict(state)
    x = torch.from_numpy(vit_images(height, width).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      if (height, width) == (VIT['img_size'],) * 2:
        y = model.forward_head(model.forward_features(x), pre_logits=True)
      else:
        tokens = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([model.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + for_map(model.pos_embed, height // patch, width // patch)
        y = model.norm(model.blocks(tokens))[:, 0]
    results[case] = y.numpy().astype(np.float32)
    print(case, y.shape, y.std().item())
  path = pathlib.Path(__file__).with_name('imported_vit.npz')
  np.savez_compressed(path, **results)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
