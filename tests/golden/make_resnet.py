"""Makes resnet.npz: torchvision's ResNets on weights that the tests can draw themselves.

Run with PyTorch and torchvision installed: python tests/golden/make_resnet.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

import numpy as np
import philox
import torch
import torchvision

CASES = {  # name -> (architecture, CIFAR stem, batch, size)
  'resnet18': ('resnet18', False, 8, 64),
  'resnet50': ('resnet50', False, 16, 64),
  'resnet18_cifar': ('resnet18', True, 8, 32),
}
KEPT = 4  # images whose embeddings are stored, to keep the file small
COUNTED = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


def build(architecture: str, cifar_stem: bool) -> torch.nn.Module:
  """The network without its classifier, every tensor drawn by its name, in float64.

  In float64, so that the distance to these outputs is the tested library's error alone.
  """
  model = torchvision.models.get_model(architecture, weights=None)
  model.fc = torch.nn.Identity()
  if cifar_stem:
    model.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    model.maxpool = torch.nn.Identity()
  state = {
    name: torch.from_numpy(philox.resnet_tensor(name, tuple(value.shape)))
    for name, value in model.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }
  model.load_state_dict(state, strict=False)
  return model.double()


def watch(model: torch.nn.Module) -> dict[int, torch.Tensor]:
  """A dict that every forward pass fills with the spatial means of stages 1 to 3."""
  taps = {}

  def hook(stage: int):
    return lambda module, inputs, output: taps.update({stage: output.mean((2, 3))})

  for stage in range(1, 4):
    getattr(model, f'layer{stage}').register_forward_hook(hook(stage))
  return taps


def main() -> None:
  results = {}
  for name, (architecture, cifar_stem, batch, size) in CASES.items():
    model = build(architecture, cifar_stem)
    taps = watch(model)
    x = torch.from_numpy(philox.images(name, batch, size).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      results[f'{name}/eval'] = model.eval()(x).numpy()[:KEPT]
      for stage in range(1, 4):
        results[f'{name}/eval/stage{stage}'] = taps[stage].numpy()[0]
      results[f'{name}/train'] = model.train()(x).numpy()[:KEPT]
    for layer in ('bn1', 'layer2.0.downsample.1', 'layer4.1.bn2'):
      for statistic in ('running_mean', 'running_var'):
        key = f'{layer}.{statistic}'
        results[f'{name}/train/{key}'] = model.state_dict()[key].numpy()
    print(name, results[f'{name}/eval'].std(), results[f'{name}/train'].std())
  for architecture in COUNTED:
    model = torchvision.models.get_model(architecture, weights=None)
    model.fc = torch.nn.Identity()
    results[f'count/{architecture}'] = np.int64(sum(p.numel() for p in model.parameters()))
    print(architecture, results[f'count/{architecture}'])
  path = pathlib.Path(__file__).with_name('resnet.npz')
  single = {k: v.astype(np.float32) if v.ndim else v for k, v in results.items()}
  np.savez_compressed(path, **single)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
