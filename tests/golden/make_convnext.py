"""Makes convnext.npz: small ConvNeXts of timm and torchvision, and parameter counts of timm's.

Run with PyTorch, torchvision and timm installed: python tests/golden/make_convnext.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from convnext_tensors import CASES, DEPTHS, DIMS, images, tensor
import numpy as np
import timm
import torch
from torchvision.models.convnext import CNBlockConfig, ConvNeXt


def build(library: str) -> torch.nn.Module:
  """The network without classifier, every tensor drawn by its name, in float64."""
  if library == 'timm':
    patch = CASES[library][0]
    model = timm.create_model(
      'convnext_tiny', depths=DEPTHS, dims=DIMS, patch_size=patch, num_classes=0
    )
  else:
    settings = zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)
    model = ConvNeXt([CNBlockConfig(*setting) for setting in settings])
    model.classifier[2] = torch.nn.Identity()
  state = model.state_dict()
  drawn = {name: torch.from_numpy(tensor(name, tuple(x.shape))) for name, x in state.items()}
  model.load_state_dict(drawn)
  return model.double().eval()


def main() -> None:
  results = {}
  for library in CASES:
    model, taps = build(library), {}
    stage = model.stages[1] if library == 'timm' else model.features[3]
    stage.register_forward_hook(lambda m, i, output, t=taps: t.update(stage2=output))
    x = torch.from_numpy(images(library).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      y = model(x)
    results |= {library: y.numpy(), f'{library}/stage2': taps['stage2'].mean((2, 3)).numpy()}
    print(library, y.shape, y.std().item(), taps['stage2'].std().item())
  for name in ('convnext_tiny', 'convnext_small', 'convnext_base'):
    model = timm.create_model(name, pretrained=False, num_classes=0)
    results[f'count/{name}'] = np.int64(sum(p.numel() for p in model.parameters()))
  path = pathlib.Path(__file__).with_name('convnext.npz')
  single = {k: v.astype(np.float32) if v.ndim else v for k, v in results.items()}
  np.savez_compressed(path, **single)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
