"""Makes dinov3.npz: features of DINOv3's ViTs in timm, small ones with random weights.

Run with PyTorch and timm installed: python tests/golden/make_dinov3.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from imported_tensors import DINOV3, DINOV3S, vit, vit_images
import numpy as np
import timm
import torch


def main() -> None:
  results = {}
  for case, (name, height, width, rounded) in DINOV3S.items():
    model = timm.create_model(name, **DINOV3).double().eval()
    state = {
      name: torch.from_numpy(vit(name, tuple(value.shape))).double()
      for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    if rounded:  # As the authors' checkpoints store them; timm computes them anew.
      model.rope.periods.copy_(model.rope.periods.bfloat16())
      model.rope.update_feat_shape([1, 1])
    x = torch.from_numpy(vit_images(height, width).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      tokens = model.forward_features(x)
    y = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)
    results[case] = y.numpy().astype(np.float32)
    print(case, y.shape, y.std().item(), sorted(state)[:12])
  path = pathlib.Path(__file__).with_name('dinov3.npz')
  np.savez_compressed(path, **results)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
