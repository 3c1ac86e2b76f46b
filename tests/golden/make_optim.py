"""Makes optim.npz: 20 steps of PyTorch's optimizers, with LARC's gradient for two forms of LARS.

Every trajectory minimizes the same small quadratic with drawn noise, in float64, the learning rate
warmed up from 0 and then on a cosine. The two LARC forms are written out here around
torch.optim.SGD and checked against lightly's and timm's LARS where those cover them.
Run with PyTorch, lightly and timm installed: python tests/golden/make_optim.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from lightly.utils.lars import LARS as LightlyLars
import numpy as np
from quadratic import DECAY, EXCLUDED, SHAPES, STEPS, TRUST, gradient, rate, start
from timm.optim import Lars as TimmLars
import torch


def larc(w: torch.Tensor, g: torch.Tensor, lr: float, clip: bool) -> torch.Tensor:
  """The gradient that LARC hands to SGD (apex; with `clip` also solo-learn)."""
  w_norm, g_norm = w.norm(), g.norm()
  if w_norm == 0 or g_norm == 0:
    return g
  ratio = TRUST * w_norm / (g_norm + w_norm * DECAY + 1e-8)
  if clip:
    ratio = min(ratio / lr, 1.0) if lr > 0 else 1.0
  return (g + DECAY * w) * ratio


def run(make, clip: bool | None = None, excluded=(), names=tuple(SHAPES)) -> dict[str, np.ndarray]:
  """Parameters after each step, [STEPS, ...] by name, from torch optimizers made per tensor."""
  path = {}
  for name in names:
    w = torch.nn.Parameter(torch.from_numpy(start(name)))
    optimizer = make([w], name)
    path[name] = np.zeros((STEPS, *w.shape))
    for step in range(STEPS):
      optimizer.param_groups[0]['lr'] = rate(step)
      w.grad = torch.from_numpy(gradient(name, w.detach().numpy(), step))
      if clip is not None and name not in excluded:
        w.grad = larc(w.detach(), w.grad, rate(step), clip)
      optimizer.step()
      path[name][step] = w.detach().numpy()
  return path


def main() -> None:
  sgd, decayed = torch.optim.SGD, lambda name: 0.0 if name in EXCLUDED else DECAY
  plain = lambda w, _: sgd(w, lr=1.0, momentum=0.9)  # noqa: E731
  runs = {
    'larc': run(plain, clip=False),
    'larc_clip': run(plain, clip=True, excluded=EXCLUDED),
    'sgd': run(lambda w, _: sgd(w, lr=1.0, momentum=0.9, weight_decay=DECAY)),
    'sgd_nesterov': run(
      lambda w, name: sgd(w, lr=1.0, momentum=0.9, weight_decay=decayed(name), nesterov=True)
    ),
    'adamw': run(lambda w, name: torch.optim.AdamW(w, lr=1.0, weight_decay=decayed(name))),
  }
  settings = {'lr': 1.0, 'momentum': 0.9, 'weight_decay': DECAY}
  lightly = run(lambda w, _: LightlyLars(w, trust_coefficient=TRUST, eps=1e-8, **settings))
  adapted = tuple(name for name in SHAPES if name not in EXCLUDED and not name.startswith('zero'))
  timm = run(
    lambda w, _: TimmLars(w, trust_coeff=TRUST, trust_clip=True, eps=1e-8, **settings),
    names=adapted,
  )
  for name in SHAPES:
    np.testing.assert_allclose(runs['larc'][name], lightly[name], rtol=1e-12)
  for name in adapted:
    np.testing.assert_allclose(runs['larc_clip'][name], timm[name], rtol=1e-12)
  path = pathlib.Path(__file__).with_name('optim.npz')
  flat = {f'{form}/{name}': w for form, ws in runs.items() for name, w in ws.items()}
  np.savez_compressed(path, **flat)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
