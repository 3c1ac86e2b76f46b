"""The other side of `peer_parity.py`: a method of lightly, trained with lightly's heads and losses.

Heads, losses, moving average and views are lightly's, put together as its examples do; the encoder,
the rates and the moving average's weights of every step are given. Images are Pillow images, as in
torchvision's CIFAR10. Nothing of byoljax or JAX is imported.

    python peer_parity_torch.py given.npz features.npz '{"method": "byol", ...}'
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

import abc
from collections.abc import Iterator
import copy
import json
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).with_name('bench')))
from lightly import loss as losses
from lightly.models import utils
from lightly.models.modules import heads
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform
from lightly_pipeline import Images, view_settings
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils import data
from torch_networks import Encoder, load

Views = list[torch.Tensor]


class Peer(nn.Module, abc.ABC):
  """An encoder, heads and a loss.

  Args:
    encoder: images -> embedding.
    case: what byoljax was told, by name; 'method' holds its arguments.
  """

  def __init__(self, encoder: Encoder, case: dict[str, Any]):
    super().__init__()
    self.encoder, self.case, self.told = encoder, case, case['arguments']
    self.step = 0
    self.averaged: list[tuple[nn.Module, nn.Module]] = []
    self.build(encoder.width)

  @abc.abstractmethod
  def build(self, width: int) -> None:
    """Makes heads and the criterion; `width` of the embedding."""

  @abc.abstractmethod
  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of two views, a scalar."""

  def average(self, *modules: nn.Module) -> list[nn.Module]:
    """Copies that follow their originals."""
    copies = [copy.deepcopy(module) for module in modules]
    for each in copies:
      utils.deactivate_requires_grad(each)
    self.averaged += zip(modules, copies, strict=True)
    return copies

  def before_step(self) -> None:
    """Between the gradient and the optimizer."""

  def after_step(self) -> None:
    """Averages move, with this step's weight of the old."""
    for online, target in self.averaged:
      utils.update_momentum(online, target, m=self.case['taus'][self.step])
    self.step += 1


class _BYOL(Peer):
  """Each view predicts the other's target."""

  def build(self, width: int) -> None:
    hidden, out = self.told['projector']
    self.projector = heads.BYOLProjectionHead(width, hidden, out)
    self.predictor = heads.BYOLPredictionHead(out, *self.told['predictor'])
    self.target, self.target_projector = self.average(self.encoder, self.projector)
    self.criterion = losses.NegativeCosineSimilarity()

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    p1, p2 = (self.predictor(self.projector(self.encoder(view))) for view in (first, second))
    with torch.no_grad():
      z1, z2 = (self.target_projector(self.target(view)) for view in (first, second))
    return 0.5 * (self.criterion(p1, z2) + self.criterion(p2, z1))


class _SimCLR(Peer):
  """NT-Xent."""

  def build(self, width: int) -> None:
    self.projector = heads.SimCLRProjectionHead(width, *self.told['projector'])
    self.criterion = losses.NTXentLoss(self.told['temperature'])

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    z1, z2 = self.projector(self.encoder(torch.cat([first, second]))).chunk(2)
    return self.criterion(z1, z2)


class _MoCo(Peer):
  """Queries of both views against keys of the other view and a queue for each direction."""

  def build(self, width: int) -> None:
    self.projector = heads.MoCoProjectionHead(width, *self.told['projector'])
    self.target, self.target_projector = self.average(self.encoder, self.projector)
    size = (self.told['queue_size'], self.told['projector'][-1])
    self.criterion = losses.NTXentLoss(self.told['temperature'], memory_bank_size=size)

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    found = []
    for query, key in ((first, second), (second, first)):
      q = self.projector(self.encoder(query))
      with torch.no_grad():
        k = self.target_projector(self.target(key))
      found.append(self.criterion(q, k))
    return 0.5 * (found[0] + found[1])


class _SimSiam(Peer):
  """Each view predicts the other, through which no gradient flows."""

  def build(self, width: int) -> None:
    hidden, _, out = self.told['projector']
    self.projector = heads.SimSiamProjectionHead(width, hidden, out)
    self.predictor = heads.SimSiamPredictionHead(out, *self.told['predictor'])
    self.criterion = losses.NegativeCosineSimilarity()

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    z1, z2 = (self.projector(self.encoder(view)) for view in (first, second))
    p1, p2 = self.predictor(z1), self.predictor(z2)
    return 0.5 * (self.criterion(p1, z2.detach()) + self.criterion(p2, z1.detach()))


class _BarlowTwins(Peer):
  """The correlation of two views' projections becomes the identity."""

  def build(self, width: int) -> None:
    hidden, _, out = self.told['projector']
    self.projector = heads.BarlowTwinsProjectionHead(width, hidden, out)
    self.criterion = losses.BarlowTwinsLoss(self.told['off_diagonal'])

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return self.criterion(*(self.projector(self.encoder(view)) for view in (first, second)))


class _VICReg(Peer):
  """Invariance, variance, covariance."""

  def build(self, width: int) -> None:
    hidden, _, out = self.told['projector']
    self.projector = heads.VICRegProjectionHead(width, hidden, out)
    weights = (self.told[name] for name in ('invariance', 'variance', 'covariance'))
    self.criterion = losses.VICRegLoss(*weights)

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return self.criterion(*(self.projector(self.encoder(view)) for view in (first, second)))


class _SwAV(Peer):
  """Codes of one view are predicted from the other."""

  def build(self, width: int) -> None:
    hidden, out = self.told['projector']
    self.projector = heads.SwaVProjectionHead(width, hidden, out)
    self.prototypes = heads.SwaVPrototypes(
      out, self.told['prototypes'], n_steps_frozen_prototypes=self.case['steps_per_epoch']
    )
    self.criterion = losses.SwaVLoss(
      self.told['temperature'], self.told['iterations'], self.told['epsilon']
    )

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    self.prototypes.normalize()
    z = self.projector(self.encoder(torch.cat([first, second])))
    scores = self.prototypes(functional.normalize(z, dim=1), self.step)
    return self.criterion(list(scores.chunk(2)), [])


class _DINO(Peer):
  """A student matches a teacher that is its own average."""

  def build(self, width: int) -> None:
    hidden, _, bottleneck = self.told['projector']
    self.head, self.target_head = (
      heads.DINOProjectionHead(
        width, hidden, bottleneck, self.told['outputs'], self.told['projector_norm'],
        freeze_last_layer=1,
      )
      for _ in range(2)
    )  # fmt: skip
    self.target_head.load_state_dict(self.head.state_dict())  # Its weight norm has no deep copy.
    utils.deactivate_requires_grad(self.target_head)
    (self.target,) = self.average(self.encoder)
    self.averaged.append((self.head, self.target_head))
    temperature = self.told['teacher_temperature']
    self.criterion = losses.DINOLoss(
      self.told['outputs'], temperature, temperature,
      student_temp=self.told['student_temperature'],
      center_momentum=self.told['center_momentum'],
    )  # fmt: skip

  def loss(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    both = torch.cat([first, second])
    with torch.no_grad():
      taught = self.target_head(self.target(both))
    student = self.head(self.encoder(both))
    return self.criterion(list(taught.chunk(2)), list(student.chunk(2)))

  def before_step(self) -> None:
    self.head.cancel_last_layer_gradients(self.step // self.case['steps_per_epoch'])


METHODS: dict[str, type[Peer]] = {
  'byol': _BYOL, 'simclr': _SimCLR, 'moco': _MoCo, 'simsiam': _SimSiam,
  'barlow_twins': _BarlowTwins, 'vicreg': _VICReg, 'swav': _SwAV, 'dino': _DINO,
}  # fmt: skip


def batches(path: str, case: dict[str, Any]) -> Iterator[Views]:
  """Two views of shuffled images, epoch after epoch, in this process."""
  settings = view_settings(case['view'], case['mean'], case['std'])
  transform = BYOLTransform(*(BYOLView1Transform(**settings) for _ in range(2)))
  images: Any = data.Subset(Images(path, transform), range(case['images']))
  loader = data.DataLoader(images, case['batch_size'], shuffle=True, drop_last=True)
  while True:
    yield from loader


def trained(model: Peer, given: Iterator[Views], case: dict[str, Any]) -> dict[str, Any]:
  """Trains; the losses of the last steps, and CPU seconds behind the first step."""
  own = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(
    [
      {'params': [p for p in own if p.ndim > 1], 'weight_decay': case['weight_decay']},
      {'params': [p for p in own if p.ndim <= 1], 'weight_decay': 0.0},
    ]
  )
  told, began = [], 0.0
  for step, rate in enumerate(case['rates']):
    for group in optimizer.param_groups:
      group['lr'] = rate
    value = model.loss(*next(given))
    optimizer.zero_grad()
    value.backward()
    model.before_step()
    optimizer.step()
    model.after_step()
    told.append(float(value.detach()))
    if step == 0:
      began = time.process_time()
  return {
    'loss': float(np.mean(told[-50:])),
    'cpu_s': time.process_time() - began,
    'parameters': sum(p.numel() for p in own),
  }


def features(encoder: nn.Module, images: np.ndarray, case: dict[str, Any]) -> np.ndarray:
  """uint8 [n, S, S, 3] -> float32 [n, D], in evaluation mode."""
  mean, std = (torch.tensor(case[name]).reshape(1, 3, 1, 1) for name in ('mean', 'std'))
  encoder.eval()
  found = []
  with torch.no_grad():
    for start in range(0, len(images), 500):
      part = torch.from_numpy(images[start : start + 500].transpose(0, 3, 1, 2) / np.float32(255))
      found.append(encoder((part - mean) / std).numpy())
  return np.concatenate(found)


def main() -> None:
  """Trains one method and writes the features of all images."""
  weights, out, text = sys.argv[1:]
  case = json.loads(text)
  torch.set_num_threads(1)
  torch.manual_seed(case['seed'])
  encoder = Encoder('small')
  with np.load(weights) as arrays:
    load(encoder, dict(arrays))
  model = METHODS[case['method']](encoder, case).train()
  facts = trained(model, batches(case['path'], case), case)
  with np.load(case['path']) as arrays:
    made = {name: features(encoder, arrays[f'x_{name}'], case) for name in ('train', 'test')}
  np.savez(out, **made)
  print(json.dumps(facts))


if __name__ == '__main__':
  main()
