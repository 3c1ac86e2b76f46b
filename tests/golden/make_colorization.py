"""Makes colorization.npz: the dilated network and the loss of colorization in PyTorch.

Both are written here from the paper (arXiv 1603.08511) with PyTorch's functions alone, in float64.
Run with PyTorch installed: python tests/golden/make_colorization.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from color_tensors import TAPS, WIDTH, lightness, loss_inputs, tensor
import numpy as np
import torch
from torch.nn import functional


def network(width: float) -> tuple[torch.nn.Module, dict[str, torch.nn.Module]]:
  """The network and the module behind which each convolution is read out."""
  plan = ((64, 2, 2, 1), (128, 2, 2, 1), (256, 3, 2, 1), (512, 3, 1, 1), (512, 3, 1, 2))
  plan += ((512, 3, 1, 2), (512, 3, 1, 1))
  modules, taps, before = torch.nn.ModuleDict(), {}, 1
  for block, (channels, convs, stride, dilation) in enumerate(plan, start=1):
    out = int(channels * width)
    for place in range(1, convs + 1):
      last = place == convs
      modules[f'conv{block}_{place}'] = torch.nn.Conv2d(
        before, out, 3, stride if last else 1, padding=dilation, dilation=dilation
      )
      modules[f'relu{block}_{place}'] = taps[f'conv{block}_{place}'] = torch.nn.ReLU()
      before = out
    modules[f'bn{block}'] = taps[f'conv{block}_{convs}'] = torch.nn.BatchNorm2d(out)
  out = int(256 * width)
  modules['conv8_1'] = torch.nn.ConvTranspose2d(before, out, 4, stride=2, padding=1)
  modules['relu8_1'] = taps['conv8_1'] = torch.nn.ReLU()
  for place in (2, 3):
    modules[f'conv8_{place}'] = torch.nn.Conv2d(out, out, 3, padding=1)
    modules[f'relu8_{place}'] = taps[f'conv8_{place}'] = torch.nn.ReLU()
  return torch.nn.Sequential(*modules.values()), taps | {'modules': modules}


def outputs(train: bool) -> dict[str, np.ndarray]:
  model, taps = network(WIDTH)
  for name, value in taps.pop('modules').state_dict().items():
    if value.ndim:
      value.copy_(torch.from_numpy(tensor(name, tuple(value.shape))))
  model.double().train(train)
  found = {}
  for tap in TAPS:
    taps[tap].register_forward_hook(
      lambda module, inputs, output, tap=tap: found.update({tap: output.mean((2, 3))})
    )
  with torch.no_grad():
    model(torch.from_numpy(lightness()).permute(0, 3, 1, 2).double())
  return {tap: found[tap].numpy() for tap in TAPS}


def loss() -> dict[str, np.ndarray]:
  given = {name: torch.from_numpy(value).double() for name, value in loss_inputs().items()}
  ab, bins, logits = given['ab'], given['bins'], given['logits'].requires_grad_()
  nearest, which = torch.cdist(ab, bins).topk(5, largest=False)
  shares = torch.exp(-(nearest**2) / (2 * 5**2))
  shares = shares / shares.sum(1, keepdim=True)
  target = torch.zeros_like(logits).scatter(1, which, shares).detach()
  kernel = torch.exp(-(torch.cdist(bins, bins) ** 2) / (2 * 5**2))
  prior = given['counts'] / given['counts'].sum() @ (kernel / kernel.sum(1, keepdim=True))
  prior = prior / prior.sum()
  weights = 1 / (0.5 * prior + 0.5 / len(bins))
  weights = weights / (weights * prior).sum()
  each = functional.cross_entropy(logits, target, reduction='none')
  value = (weights[which[:, 0]] * each).mean()
  value.backward()
  mean = functional.softmax(logits.detach() / 0.38, dim=1) @ bins
  made = {'which': which, 'shares': shares, 'weights': weights, 'loss': value,
          'gradient': logits.grad, 'annealed': mean}  # fmt: skip
  return {f'loss/{name}': array.detach().numpy() for name, array in made.items()}


def main() -> None:
  results = loss()
  for mode in ('eval', 'train'):
    results |= {f'{mode}/{tap}': value for tap, value in outputs(mode == 'train').items()}
  path = pathlib.Path(__file__).with_name('colorization.npz')
  single = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in results.items()}
  whole = torch.nn.Sequential(network(1)[0], torch.nn.Conv2d(256, 313, 1))
  single['count'] = np.int64(sum(p.numel() for p in whole.parameters()))
  np.savez_compressed(path, **single)
  print(path, path.stat().st_size, single['count'], single['loss/loss'])
  for name, value in single.items():
    print(name, value.shape, float(np.std(value)))


if __name__ == '__main__':
  main()
