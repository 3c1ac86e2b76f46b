"""Makes family_losses.npz: values and gradients of the joint-embedding losses, in float64.

From lightly's losses where it has them, and from PyTorch formulas written out here otherwise. Every
case stores its value under its name and gradients under name/input. Constant factors:
- lightly's NTXentLoss is the mean over the 2B anchors, SimCLR's code twice that; stored: the mean.
  With a memory bank of negatives the same class is MoCo's loss, against which the formula here is
  checked.
- MoCo v3's code multiplies by 2T; stored without.
- lightly's VICRegLoss halves the variance term; the paper's sum is its mu_param doubled.
- lightly's WMSELoss is 2 - 2 cos, with all rows in one sub-batch (w_size = batch, w_iter = 1).
- lightly's SwaVLoss and DINOLoss are means over pairs of crops; stored like that.
- lightly's NegativeCosineSimilarity (SimSiam) is in losses.npz, as 2 + 2 times it.
- Distillation has no factor T^2.
Run with PyTorch and lightly installed: python tests/golden/make_family_losses.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from lightly.loss import BarlowTwinsLoss, DINOLoss, NTXentLoss, SwaVLoss, VICRegLoss, WMSELoss
from lightly.loss.swav_loss import sinkhorn
import numpy as np
import philox
import torch
from torch.nn import functional

RESULTS: dict[str, np.ndarray] = {}


def draw(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
  """A leaf tensor that the tests draw alike, by its name."""
  return torch.from_numpy(philox.uniform(name, shape, low, high)).double().requires_grad_()


def unit(name: str, *shape: int) -> torch.Tensor:
  """Unit rows, rounded to float32 as the tests see them."""
  rows = functional.normalize(draw(name, *shape).detach(), dim=-1)
  return rows.float().double().requires_grad_()


def store(name: str, value: torch.Tensor, **inputs: torch.Tensor) -> None:
  """Keeps a value (its mean, if it is per example, is differentiated) and its gradients."""
  gradients = torch.autograd.grad(value.mean(), list(inputs.values()), retain_graph=True)
  RESULTS[name] = value.detach().numpy()
  for key, gradient in zip(inputs, gradients, strict=True):
    RESULTS[f'{name}/{key}'] = gradient.numpy()


def contrastive() -> None:
  q, k, queue = draw('q', 6, 8), draw('k', 6, 8), unit('queue', 20, 8)
  own = unit('own', 6, 5, 8)
  mask = torch.from_numpy(philox.uniform('mask', (6, 20), 0.0, 1.0) < 0.6)
  nq, nk = functional.normalize(q, dim=1), functional.normalize(k, dim=1)

  def loss(negative: torch.Tensor, margin: float, keep: torch.Tensor | None) -> torch.Tensor:
    positive = ((nq * nk).sum(1) - margin) / 0.2
    negative = negative / 0.2
    if keep is not None:
      negative = negative.masked_fill(~keep, -torch.inf)
    logits = torch.cat([positive[:, None], negative], 1)
    labels = torch.zeros(len(logits), dtype=torch.long)
    return functional.cross_entropy(logits, labels, reduction='none')

  store('info_nce', loss(nq @ queue.T, 0.0, None), q=q, k=k, negatives=queue)
  moco = NTXentLoss(temperature=0.2, memory_bank_size=(20, 8))
  moco.memory_bank.bank = queue.detach().clone()
  moco.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
  np.testing.assert_allclose(moco(q, k).item(), RESULTS['info_nce'].mean(), rtol=1e-6)
  store('info_nce_margin', loss(nq @ queue.T, -0.5, None), q=q, k=k, negatives=queue)
  store('info_nce_masked', loss(nq @ queue.T, -0.5, mask), q=q, k=k, negatives=queue)
  each = torch.einsum('bd,bkd->bk', nq, own)
  store('info_nce_own', loss(each, 0.0, None), q=q, k=k, negatives=own)

  keys = draw('keys', 18, 8)
  logits = nq @ functional.normalize(keys, dim=1).T / 0.3
  labels = 6 + torch.arange(6)
  in_batch = functional.cross_entropy(logits, labels, reduction='none')
  store('info_nce_in_batch', in_batch, q=q, keys=keys)

  first, second = draw('first', 8, 16), draw('second', 8, 16)
  store('nt_xent', NTXentLoss(temperature=0.5)(first, second), first=first, second=second)
  memory = unit('memory', 7, 16)
  both = functional.normalize(torch.cat([first, second]), dim=1)
  similarity = (both @ both.T).fill_diagonal_(-torch.inf)
  logits = torch.cat([similarity, both @ memory.T], 1) / 0.5
  labels = (torch.arange(16) + 8) % 16
  remembered = functional.cross_entropy(logits, labels, reduction='none')
  store('nt_xent_memory', remembered, first=first, second=second)


def redundancy() -> None:
  a, b = draw('a', 16, 5, low=-2.0), draw('b', 16, 5, high=0.5)
  store('barlow_twins', BarlowTwinsLoss(lambda_param=0.0051)(a, b), a=a, b=b)
  store('vicreg', VICRegLoss()(a, b), a=a, b=b)
  store('vicreg_paper', VICRegLoss(mu_param=50.0)(a, b), a=a, b=b)
  whitening = WMSELoss(embedding_dim=5, eps=1e-3, w_size=16, track_running_stats=False).double()
  store('w_mse', whitening(torch.cat([a, b])), a=a, b=b)


def clustering() -> None:
  scores = {f'scores{i}': draw(f'scores{i}', 6, 5) for i in range(5)}
  crops = list(scores.values())
  queued = [draw(f'queued{i}', 9, 5).detach() for i in range(2)]
  swav = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
  store('swapped', swav(crops[:2], crops[2:])[0], **scores)
  store('swapped_queue', swav(crops[:2], crops[2:], queued)[0], **scores)
  RESULTS['sinkhorn'] = sinkhorn(crops[0].detach(), iterations=3, epsilon=0.05).numpy()
  together = torch.cat([crops[0].detach(), queued[0]])
  RESULTS['sinkhorn_queue'] = sinkhorn(together, iterations=3, epsilon=0.05).numpy()[:6]

  teacher = [draw(f'teacher{i}', 6, 5).detach() for i in range(2)]
  dino = DINOLoss(output_dim=5, teacher_temp=0.04, student_temp=0.1).double()
  dino.center.data = draw('center', 1, 1, 5).detach()
  store('dino', dino(teacher, crops), **scores)

  student, classes = draw('student', 7, 4, low=-3.0), draw('classes', 7, 4, high=4.0)
  targets = functional.softmax(classes.detach() / 0.7, dim=1)
  soft = functional.cross_entropy(student / 0.7, targets, reduction='none')
  store('distillation', soft, student=student)


def noise_contrastive() -> None:
  """Wu et al.'s posterior in probabilities, as their code has it, epsilon and all."""
  positive, noise = draw('positive', 4, high=9.0), draw('noise', 4, 6, low=-9.0, high=9.0)
  examples, eps = 50, 1e-7
  z = np.exp(7.5)
  ratio = 6 / examples
  p, p_noise = positive.exp() / z, noise.exp() / z
  data = torch.log(p / (p + ratio + eps))
  other = torch.log(ratio / (p_noise + ratio + eps))
  store('nce', -data - other.sum(1), positive=positive, noise=noise)


def triplets() -> None:
  """Loops over anchors, positives and negatives; the margin is .2."""
  z = draw('rows', 10, 4)
  groups = [0, 1, 2, 0, 1, 2, 0, 3, 1, 3]
  x = functional.normalize(z, dim=1)
  d = ((x[:, None] - x[None]) ** 2).sum(2)
  chosen = {'all': [], 'batch_hard': [], 'semi_hard': []}
  for a, group in enumerate(groups):
    positives = [i for i, g in enumerate(groups) if g == group and i != a]
    negatives = [i for i, g in enumerate(groups) if g != group]
    by_distance = sorted(negatives, key=lambda n, a=a: d[a, n].item())
    chosen['all'] += [(a, p, n) for p in positives for n in negatives]
    farthest = max(positives, key=lambda p, a=a: d[a, p].item())
    chosen['batch_hard'].append((a, farthest, by_distance[0]))
    for p in positives:
      farther = [n for n in by_distance if d[a, n] > d[a, p]]
      chosen['semi_hard'].append((a, p, farther[0] if farther else by_distance[-1]))
  RESULTS['groups'] = np.array(groups)
  for mode, triples in chosen.items():
    a, p, n = torch.tensor(triples).T
    hinges = functional.relu(d[a, p] - d[a, n] + 0.2)
    store(f'triplet_{mode}', hinges.mean(), z=z)
    RESULTS[f'triplet_{mode}/active'] = np.array((hinges > 0).double().mean().item())


def main() -> None:
  for part in (contrastive, redundancy, clustering, noise_contrastive, triplets):
    part()
  path = pathlib.Path(__file__).with_name('family_losses.npz')
  np.savez_compressed(path, **RESULTS)
  print({k: v.mean().round(4) for k, v in RESULTS.items() if '/' not in k}, path.stat().st_size)


if __name__ == '__main__':
  main()
