"""Makes losses.npz: lightly's BYOL loss and PyTorch's cross-entropy with their gradients.

Run with PyTorch and lightly installed: python tests/golden/make_losses.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from lightly.loss import NegativeCosineSimilarity
import numpy as np
import philox
import torch


def main() -> None:
  results = {}
  p = torch.from_numpy(philox.uniform('p', (8, 16), -3.0, 3.0)).double().requires_grad_()
  z = torch.from_numpy(philox.uniform('z', (8, 16), -0.1, 0.2)).double().requires_grad_()
  loss = 2.0 + 2.0 * NegativeCosineSimilarity()(p, z)  # lightly's -cos; equation 2 is 2 - 2 cos
  loss.backward()
  results |= {'regression': loss.item(), 'regression/p': p.grad, 'regression/z': z.grad}

  logits = torch.from_numpy(philox.uniform('logits', (12, 7), -4.0, 4.0)).double()
  logits.requires_grad_()
  labels = torch.tensor([0, 3, 6, 1, -1, 2, 2, 5, -1, 4, 0, 6])
  loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
  loss.backward()
  results |= {'cross_entropy': loss.item(), 'cross_entropy/logits': logits.grad, 'labels': labels}
  for k in (1, 2, 5):
    best = logits.detach().topk(k).indices
    results[f'top{k}'] = (best == labels[:, None]).any(1)[labels >= 0].double().mean().item()
  path = pathlib.Path(__file__).with_name('losses.npz')
  np.savez_compressed(path, **{name: np.asarray(value) for name, value in results.items()})
  print({k: v for k, v in results.items() if isinstance(v, float)}, path.stat().st_size)


if __name__ == '__main__':
  main()
