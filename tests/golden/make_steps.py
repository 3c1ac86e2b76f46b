"""Makes steps.npz: whole training steps of five methods, in PyTorch and float64.

Written from the papers and the authors' published settings, on a network of one convolution:

  byol          views one by one; the sum of both directions; the target is an independent draw with
                train-mode statistics of its own, an average of the parameters alone, after the
                optimizer; LARS with the rate outside its momentum (arXiv 2006.07733)
  simclr        both views in one batch; the sum of both views' mean NT-Xent; a head without biases
                whose output is normalized with a scale alone; LARS with the rate inside its
                momentum (arXiv 2002.05709)
  moco          v2: one direction; batch normalization in groups, keys in a given order; the queue
                is written after it was used; torch.optim.SGD, which decays everything; the rate
                moves once an epoch (arXiv 1911.05722, algorithm 1; 2003.04297)
  barlow_twins  views one by one; the whole batch's cross-correlation; LARS with another rate for
                tensors of one dimension (arXiv 2103.03230)
  fixmatch      labelled, weak and strong views in one batch; cross-entropy, and that of the strong
                views with the weak views' surest class, where it is sure enough, over all of them;
                Nesterov SGD that decays kernels alone, with the rate peak cos(7 pi k / 16 K)
                (arXiv 2001.07685)

Stored after every step, stacked: '<case>/<owner>.<name in PyTorch>' for the parameters and running
statistics of the owners 'online' and 'target', and '<case>/loss', '<case>/grad_norm', MoCo's queue.
Running variances are biased and averaged over groups, unlike torch.nn.BatchNorm2d's.
Run with PyTorch installed: python tests/golden/make_steps.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

from collections import OrderedDict
from collections.abc import Callable
import math
import pathlib

import numpy as np
import step_tensors
from step_tensors import BATCH, EPOCH, METHODS, OPTIMIZERS, STEPS, TOTAL, WARMUP
import torch
from torch import nn
from torch.nn import functional

RESULTS: dict[str, list[np.ndarray]] = {}


class BatchNorm(nn.Module):
  """Train-mode batch normalization of consecutive groups of rows, each by itself."""

  def __init__(self, width: int, groups: int = 1, bias: bool = True):
    super().__init__()
    self.groups = groups
    self.weight = nn.Parameter(torch.empty(width))
    self.register_parameter('bias', nn.Parameter(torch.empty(width)) if bias else None)
    self.register_buffer('running_mean', torch.empty(width))
    self.register_buffer('running_var', torch.empty(width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    parts = x.chunk(self.groups)
    dims = (0, *range(2, x.ndim))
    with torch.no_grad():
      mean = torch.stack([part.mean(dims) for part in parts]).mean(0)
      var = torch.stack([part.var(dims, correction=0) for part in parts]).mean(0)
      self.running_mean.copy_(0.9 * self.running_mean + 0.1 * mean)
      self.running_var.copy_(0.9 * self.running_var + 0.1 * var)
    return torch.cat(
      [
        functional.batch_norm(part, None, None, self.weight, self.bias, training=True, eps=1e-5)
        for part in parts
      ]
    )


def encoder(groups: int = 1) -> nn.Sequential:
  """Images [b,3,8,8] to embeddings [b,8]."""
  width = step_tensors.WIDTH
  return nn.Sequential(
    OrderedDict(
      conv=nn.Conv2d(3, width, 3, stride=2, padding=1),
      bn=BatchNorm(width, groups),
      relu=nn.ReLU(),
      pool=nn.AdaptiveAvgPool2d(1),
      flat=nn.Flatten(),
    )
  )


def head(
  inputs: int,
  widths: tuple[int, ...],
  *,
  hidden_bias: bool,
  norm: bool = True,
  last_bias: bool = False,
  last_scale: bool = False,
) -> nn.Sequential:
  """Linear layers with batch normalization and ReLU between them."""
  parts: OrderedDict[str, nn.Module] = OrderedDict()
  sizes = (inputs, *widths)
  for i in range(1, len(widths)):
    parts[f'linear{i}'] = nn.Linear(sizes[i - 1], sizes[i], bias=hidden_bias)
    if norm:
      parts[f'bn{i}'] = BatchNorm(sizes[i])
    parts[f'relu{i}'] = nn.ReLU()
  last = len(widths)
  parts[f'linear{last}'] = nn.Linear(sizes[-2], sizes[-1], bias=last_bias)
  if last_scale:
    parts[f'bn{last}'] = BatchNorm(sizes[-1], bias=False)
  return nn.Sequential(parts)


def drawn(owner: str, **parts: nn.Module) -> nn.Sequential:
  """The parts in sequence, every tensor drawn by its name, in float64."""
  net = nn.Sequential(OrderedDict(parts))
  net.load_state_dict(
    {
      name: torch.from_numpy(step_tensors.tensor(f'{owner}.{name}', tuple(value.shape)))
      for name, value in net.state_dict().items()
    }
  )
  return net.double()


def images(step: int) -> list[torch.Tensor]:
  """Both views, [b,3,H,W]."""
  return [torch.from_numpy(view).double().permute(0, 3, 1, 2) for view in step_tensors.views(step)]


def warmed_up_cosine(case: str, base: float, end: float = 0.0) -> Callable[[int], float]:
  """Peak times step / warm-up, then times end + (1 - end) (1 + cos) / 2."""
  scale = math.sqrt(BATCH) if case == 'simclr' else BATCH / 256
  warmup = WARMUP[case]

  def rate(step: int) -> float:
    if step < warmup:
      return base * scale * step / warmup
    share = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (TOTAL - warmup)))
    return base * scale * (end + (1.0 - end) * share)

  return rate


class Lars:
  """LARS that neither decays nor adapts tensors of one dimension."""

  def __init__(self, case: str, net: nn.Module, *, rate_in_momentum: bool):
    self.settings = OPTIMIZERS[case]
    self.parameters = list(net.parameters())
    self.momenta = [torch.zeros_like(w) for w in self.parameters]
    self.rate_in_momentum = rate_in_momentum

  @torch.no_grad()
  def step(self, rate: float, rate_of_vectors: float | None = None) -> None:
    mu, eta = self.settings['momentum'], self.settings['trust_coefficient']
    for w, m in zip(self.parameters, self.momenta, strict=True):
      u, lr = w.grad, rate
      if w.ndim > 1:
        u = u + self.settings['weight_decay'] * w
        u = eta * w.norm() / u.norm() * u
      elif rate_of_vectors is not None:
        lr = rate_of_vectors
      if self.rate_in_momentum:
        m.copy_(mu * m + lr * u)
        w -= m
      else:
        m.copy_(mu * m + u)
        w -= lr * m


@torch.no_grad()
def average(target: nn.Module, online: nn.Module, tau: float) -> None:
  """Parameters only, by name: what the target does not have is left out."""
  newest = dict(online.named_parameters())
  for name, w in target.named_parameters():
    w.copy_(tau * w + (1.0 - tau) * newest[name])


def record(case: str, loss: torch.Tensor, online: nn.Module, target=None, **others) -> None:
  """Appends what there is after a step; the gradients are still those of the step."""
  square = sum((w.grad**2).sum() for w in online.parameters())
  values = {'loss': loss.detach(), 'grad_norm': square.sqrt()} | others
  for owner, net in {'online': online, 'target': target}.items():
    if net is not None:
      values |= {f'{owner}.{name}': value for name, value in net.state_dict().items()}
  for name, value in values.items():
    RESULTS.setdefault(f'{case}/{name}', []).append(value.numpy().copy())


def byol() -> None:
  arguments = METHODS['byol']
  rate = warmed_up_cosine('byol', OPTIMIZERS['byol']['base_lr'])

  def shared() -> dict[str, nn.Module]:
    projector = head(step_tensors.WIDTH, arguments['projector'], hidden_bias=True)
    return {'encoder': encoder(), 'projector': projector}

  predictor = head(arguments['projector'][-1], arguments['predictor'], hidden_bias=True)
  online = drawn('byol/online', **shared(), predictor=predictor)
  target = drawn('byol/target', **shared())
  optimizer = Lars('byol', online, rate_in_momentum=False)
  for step in range(STEPS):
    first, second = images(step)
    p_first, p_second = online(first), online(second)
    with torch.no_grad():
      z_first, z_second = target(first), target(second)
    pairs = ((p_first, z_second), (p_second, z_first))
    loss = sum((2.0 - 2.0 * functional.cosine_similarity(p, z)).mean() for p, z in pairs)
    online.zero_grad()
    loss.backward()
    optimizer.step(rate(step))
    tau = 1.0 - (1.0 - arguments['base_tau']) * (math.cos(math.pi * step / TOTAL) + 1.0) / 2.0
    average(target, online, tau)
    record('byol', loss, online, target, tau=torch.tensor(tau))


def simclr() -> None:
  arguments = METHODS['simclr']
  rate = warmed_up_cosine('simclr', OPTIMIZERS['simclr']['base_lr'])
  projector = head(step_tensors.WIDTH, arguments['projector'], hidden_bias=False, last_scale=True)
  net = drawn('simclr/online', encoder=encoder(), projector=projector)
  optimizer = Lars('simclr', net, rate_in_momentum=True)
  labels = torch.arange(2 * BATCH).roll(BATCH)
  for step in range(STEPS):
    z = functional.normalize(net(torch.cat(images(step))))
    logits = z @ z.T / arguments['temperature'] - 1e9 * torch.eye(2 * BATCH)
    each = functional.cross_entropy(logits, labels, reduction='none')
    loss = each[:BATCH].mean() + each[BATCH:].mean()
    net.zero_grad()
    loss.backward()
    optimizer.step(rate(step))
    record('simclr', loss, net)


def moco() -> None:
  arguments, settings = METHODS['moco'], OPTIMIZERS['moco']

  def network() -> nn.Sequential:
    projector = head(
      step_tensors.WIDTH, arguments['projector'], hidden_bias=True, norm=False, last_bias=True
    )
    # The key network starts as a copy: it is drawn by the same names.
    return drawn('moco/online', encoder=encoder(arguments['bn_groups']), projector=projector)

  online, target = network(), network()
  queue, pointer = torch.from_numpy(step_tensors.queue()).double(), 0
  order = torch.from_numpy(step_tensors.order())
  momentum, decay = settings['momentum'], settings['weight_decay']
  optimizer = torch.optim.SGD(online.parameters(), lr=0.0, momentum=momentum, weight_decay=decay)
  for step in range(STEPS):
    share = 0.5 * (1.0 + math.cos(math.pi * (step // EPOCH) / (TOTAL // EPOCH)))
    optimizer.param_groups[0]['lr'] = settings['base_lr'] * BATCH / 256 * share
    first, second = images(step)
    q = functional.normalize(online(first))
    with torch.no_grad():
      shuffled = functional.normalize(target(second[order]))
      keys = torch.empty_like(shuffled)
      keys[order] = shuffled
    logits = torch.cat([(q * keys).sum(1, keepdim=True), q @ queue.T], dim=1)
    zeros = torch.zeros(BATCH, dtype=torch.long)
    loss = functional.cross_entropy(logits / arguments['temperature'], zeros)
    online.zero_grad()
    loss.backward()
    optimizer.step()
    average(target, online, arguments['tau'])
    queue[(pointer + torch.arange(BATCH)) % len(queue)] = keys
    pointer = (pointer + BATCH) % len(queue)
    counts = {'pointer': pointer, 'filled': min((step + 1) * BATCH, len(queue))}
    counts = {name: torch.tensor(count) for name, count in counts.items()}
    record('moco', loss, online, target, queue=queue, **counts)


def barlow_twins() -> None:
  arguments, settings = METHODS['barlow_twins'], OPTIMIZERS['barlow_twins']
  bases = (settings['base_lr'], settings['groups']['bias_and_norm']['base_lr'])
  rate, of_vectors = (warmed_up_cosine('barlow_twins', base, settings['end_lr']) for base in bases)
  projector = head(step_tensors.WIDTH, arguments['projector'], hidden_bias=False)
  net = drawn('barlow_twins/online', encoder=encoder(), projector=projector)
  optimizer = Lars('barlow_twins', net, rate_in_momentum=False)
  for step in range(STEPS):
    a, b = (
      functional.batch_norm(net(view), None, None, training=True, eps=1e-5) for view in images(step)
    )
    correlation = a.T @ b / BATCH
    diagonal = torch.diagonal(correlation)
    on, off = ((diagonal - 1.0) ** 2).sum(), (correlation**2).sum() - (diagonal**2).sum()
    loss = on + arguments['off_diagonal'] * off
    net.zero_grad()
    loss.backward()
    optimizer.step(rate(step), of_vectors(step))
    record('barlow_twins', loss, net, on_diagonal=on.detach(), off_diagonal=off.detach())


def fixmatch() -> None:
  arguments, settings = METHODS['fixmatch'], OPTIMIZERS['fixmatch']
  labelled, others = step_tensors.SHARES

  def network() -> nn.Sequential:
    classifier = head(step_tensors.WIDTH, (step_tensors.CLASSES,), hidden_bias=True, last_bias=True)
    # The average starts as a copy: it is drawn by the same names.
    return drawn('fixmatch/online', encoder=encoder(), head=classifier)

  online, target = network(), network()
  weights = list(online.parameters())
  groups = [
    {'params': [w for w in weights if w.ndim > 1], 'weight_decay': settings['weight_decay']},
    {'params': [w for w in weights if w.ndim == 1], 'weight_decay': 0.0},
  ]
  optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings['momentum'], nesterov=True)
  known = torch.arange(BATCH) % (labelled + others) < labelled
  for step in range(STEPS):
    for group in optimizer.param_groups:
      group['lr'] = settings['base_lr'] * math.cos(7 * math.pi * step / (16 * TOTAL))
    weak, strong = images(step)
    labels = torch.from_numpy(step_tensors.labels(step))[known].long()
    logits = online(torch.cat([weak[known], weak[~known], strong[~known]]))
    of_labelled, of_weak, of_strong = logits.split([len(labels), *[int((~known).sum())] * 2])
    supervised = functional.cross_entropy(of_labelled, labels)
    chance, guess = of_weak.detach().softmax(1).max(1)
    # Float32 must come to the same decisions, of which there must be both.
    assert (chance - arguments['threshold']).abs().min() > 1e-3
    mask = (chance >= arguments['threshold']).double()
    assert 0 < mask.mean() < 1
    unsupervised = (functional.cross_entropy(of_strong, guess, reduction='none') * mask).mean()
    loss = supervised + arguments['weight'] * unsupervised
    online.zero_grad()
    loss.backward()
    optimizer.step()
    average(target, online, arguments['tau'])
    # The average of the weights is evaluated with the statistics of the network itself.
    for own, newest in zip(target.buffers(), online.buffers(), strict=True):
      own.copy_(newest)
    parts = {'labelled': supervised, 'unlabelled': unsupervised, 'confident': mask.mean()}
    record('fixmatch', loss, online, target, **{name: x.detach() for name, x in parts.items()})


def main() -> None:
  for case in (byol, simclr, moco, barlow_twins, fixmatch):
    case()
  # Stored as float32 to keep the file small: 6e-8 is far below what the tests allow.
  stacked = {
    name: np.stack(values).astype(np.float32 if values[0].dtype.kind == 'f' else np.int32)
    for name, values in RESULTS.items()
  }
  path = pathlib.Path(__file__).with_name('steps.npz')
  np.savez_compressed(path, **stacked)
  print({name: value for name, value in stacked.items() if value.ndim == 1}, path.stat().st_size)


if __name__ == '__main__':
  main()
