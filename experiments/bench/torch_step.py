"""The same train steps in PyTorch: networks, loss, LARS, moving average, from the same weights.

Written as a good PyTorch program would be: `torch._foreach` operations in the optimizer and in the
moving average (no Python loop over tensors), no gradient for the target, a queue that is written in
place, networks in bfloat16 by autocast and losses in float32. Methods are classes of what they
differ in. The networks are those of torch_networks.py. Nothing of byoljax or JAX is imported.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

import abc
from collections.abc import Callable, Mapping, Sequence
import contextlib
import math
import time
from typing import Any, ClassVar

import contest
import numpy as np
import torch
from torch import nn
from torch.nn import functional
import torch_networks

PACKAGES = ('torch', 'numpy')
# how the networks are run -> (memory format of images and weights, whether torch.compile is used)
VARIANTS = {
  'eager': (torch.contiguous_format, False),
  'channels_last': (torch.channels_last, False),
  'compiled': (torch.channels_last, True),
}


class Lars:
  """LARS as in BYOL's code: biases and normalization neither decayed nor adapted."""

  def __init__(self, parameters: Sequence[nn.Parameter], case: dict[str, Any]):
    self.adapted = [p for p in parameters if p.ndim > 1]
    self.all = self.adapted + [p for p in parameters if p.ndim == 1]
    self.momenta = [torch.zeros_like(p) for p in self.all]
    self.lr, self.decay = case['lr'], case['weight_decay']
    self.momentum, self.trust = case['momentum'], case['trust_coefficient']

  @torch.no_grad()
  def step(self) -> None:
    """One update from the gradients, which it uses up."""
    updates = [p.grad for p in self.all]
    adapted = updates[: len(self.adapted)]
    torch._foreach_add_(adapted, self.adapted, alpha=self.decay)
    u, w = (torch.stack(torch._foreach_norm(x)) for x in (adapted, self.adapted))
    ratios = torch.where((u > 0) & (w > 0), self.trust * w / u, torch.ones_like(u))
    torch._foreach_mul_(adapted, list(ratios.unbind()))
    torch._foreach_mul_(self.momenta, self.momentum)
    torch._foreach_add_(self.momenta, updates)
    torch._foreach_add_(self.all, self.momenta, alpha=-self.lr)
    for p in self.all:
      p.grad = None


Run = Callable[[torch.Tensor], torch.Tensor]
Views = Sequence[torch.Tensor]


def unit(x: torch.Tensor) -> torch.Tensor:
  """Rows of unit length."""
  return functional.normalize(x, dim=1)


def regression(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
  """2 - 2 cos(p, z), averaged."""
  return 2 - 2 * (unit(p) * unit(z)).sum(1).mean()


class Method(abc.ABC):
  """What methods differ in.

  Args:
    arguments: those of byoljax's builder.
    total_steps: length of the run.
    queue: earlier keys, unit rows [K, D], or None.
  """

  head: ClassVar[Mapping[str, bool]] = {}
  """How its heads are made; see `torch_networks.Head`."""

  def __init__(self, arguments: dict[str, Any], total_steps: int, queue: torch.Tensor | None):
    self.arguments, self.total_steps, self.queue = arguments, total_steps, queue

  @abc.abstractmethod
  def outputs(self, online: Run, target: Run | None, views: Views) -> tuple[torch.Tensor, ...]:
    """What the networks make of the views, float32 [., D] each; under autocast."""

  @abc.abstractmethod
  def loss(self, *outputs: torch.Tensor) -> torch.Tensor:
    """The scalar that is differentiated."""

  def tau(self, step: int) -> float:
    """Weight of the old target in the moving average; without a target there is nothing old."""
    del step
    return 0.0

  def remember(self, *outputs: torch.Tensor) -> None:
    """Writes to the queue what belongs there, after the gradient."""
    del outputs


class BYOL(Method):
  """Each view's prediction of what the target makes of the other view."""

  def outputs(self, online: Run, target: Run | None, views: Views) -> tuple[torch.Tensor, ...]:
    """Both predictions and both projections."""
    assert target is not None
    predictions = [online(view) for view in views]
    with torch.no_grad():
      return *predictions, *(target(view) for view in views)

  def loss(self, *outputs: torch.Tensor) -> torch.Tensor:
    """The sum of both directions."""
    p1, p2, z1, z2 = outputs
    return regression(p1, z2) + regression(p2, z1)

  def tau(self, step: int) -> float:
    """Rises to 1 on a cosine."""
    done = step / self.total_steps
    return 1 - (1 - self.arguments['base_tau']) * 0.5 * (math.cos(math.pi * done) + 1)


class SimCLR(Method):
  """Both views go through the network together; NT-Xent."""

  head: ClassVar[Mapping[str, bool]] = {'hidden_bias': False, 'last_norm': True}

  def outputs(self, online: Run, target: Run | None, views: Views) -> tuple[torch.Tensor, ...]:
    """Projections of the first view, then of the second."""
    return (online(torch.cat(list(views))),)

  def loss(self, *outputs: torch.Tensor) -> torch.Tensor:
    """Twice the mean over all anchors, as byoljax has it."""
    z = unit(outputs[0])
    logits = (z / self.arguments['temperature']) @ z.T
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)
    others = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return 2 * functional.cross_entropy(logits, others)


class MoCo(Method):
  """A query of one view and a key of the other; InfoNCE against a queue of earlier keys."""

  head: ClassVar[Mapping[str, bool]] = {'norm': False, 'last_bias': True}
  _next = 0

  def outputs(self, online: Run, target: Run | None, views: Views) -> tuple[torch.Tensor, ...]:
    """Queries and keys, of unit length."""
    assert target is not None
    queries = unit(online(views[0]))
    with torch.no_grad():
      return queries, unit(target(views[1]))

  def loss(self, *outputs: torch.Tensor) -> torch.Tensor:
    """The mean over the queries."""
    assert self.queue is not None
    q, k = outputs[0] / self.arguments['temperature'], outputs[1]
    positive = (q * k).sum(1)
    others = torch.logsumexp(q @ self.queue.T, 1)
    return (torch.logaddexp(positive, others) - positive).mean()

  def tau(self, step: int) -> float:
    """Never changes."""
    return self.arguments['tau']

  def remember(self, *outputs: torch.Tensor) -> None:
    """Keys replace the oldest ones; the queue is a multiple of the batch."""
    assert self.queue is not None
    keys = outputs[1]
    self.queue[self._next : self._next + len(keys)] = keys
    self._next = (self._next + len(keys)) % len(self.queue)


METHODS: dict[str, type[Method]] = {'byol': BYOL, 'simclr': SimCLR, 'moco': MoCo}


class Contestant:
  """Answers 'prepare', 'check' and 'steps' like its namesake in jax_step.py."""

  def prepare(
    self, case: dict[str, Any], start: str, variant: str, threads: int, device: str = 'cpu'
  ) -> contest.Reply:
    """Builds the networks from the weights, the queue and the views in `start`, on a device.

    On a GPU float32 products are computed in TF32, as JAX computes them, and cuDNN chooses its
    algorithms by measuring them, as XLA does.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision('high' if device == 'cuda' else 'highest')
    torch.backends.cudnn.benchmark = True
    layout, compiled = VARIANTS[variant]
    self._case, self._step, self._device = case, 0, device
    with np.load(start) as arrays:
      given = dict(arrays)
    queue = torch.from_numpy(given['queue']).to(device) if 'queue' in given else None
    method = METHODS[case['method']]
    arguments = case['arguments']
    self._method = method(arguments, case['total_steps'], queue)
    networks = {}
    for role in ('online', 'target'):
      own = {k.partition('/')[2]: v for k, v in given.items() if k.startswith(f'{role}/')}
      if own:
        predictor = arguments.get('predictor', ()) if role == 'online' else ()
        network = torch_networks.Network(
          case['encoder'], arguments['projector'], predictor, method.head
        )
        torch_networks.load(network, own)
        networks[role] = network.to(device, memory_format=layout).train()
    self._views = [
      torch.from_numpy(given[name].transpose(0, 3, 1, 2))
      .to(device)
      .contiguous(memory_format=layout)
      for name in ('view1', 'view2')
    ]
    self._run = {
      role: torch.compile(network) if compiled else network for role, network in networks.items()
    }
    self._lars = Lars(list(networks['online'].parameters()), case)
    shared, averaged = dict(networks['online'].named_parameters()), {}
    if 'target' in networks:
      averaged = dict(networks['target'].requires_grad_(False).named_parameters())
    self._averaged, self._sources = list(averaged.values()), [shared[name] for name in averaged]
    self._start = {
      kind: [x.detach().clone() for x in tensors] for kind, tensors in self._tensors().items()
    }
    counts = {
      role: sum(p.numel() for p in network.parameters()) for role, network in networks.items()
    }
    return {'parameters': counts, 'versions': contest.versions(PACKAGES)}

  def _tensors(self) -> dict[str, list[torch.Tensor]]:
    """All that a step changes, but statistics and momenta, by kind."""
    adapted, queue = len(self._lars.adapted), self._method.queue
    kinds = {
      'online, adapted': self._lars.all[:adapted],
      'online, excluded': self._lars.all[adapted:],
      'target': self._averaged,
      'queue': [] if queue is None else [queue],
    }
    return {kind: tensors for kind, tensors in kinds.items() if tensors}

  def _one(self) -> torch.Tensor:
    mixed = (
      torch.autocast(self._device, torch.bfloat16)
      if self._case['dtype'] == 'bfloat16'
      else contextlib.nullcontext()
    )
    with mixed:
      outputs = self._method.outputs(self._run['online'], self._run.get('target'), self._views)
    loss = self._method.loss(*outputs)
    loss.backward()
    self._lars.step()
    with torch.no_grad():
      if self._averaged:
        weight = 1 - self._method.tau(self._step)
        torch._foreach_lerp_(self._averaged, self._sources, weight)
      self._method.remember(*outputs)
    self._step += 1
    return loss.detach()

  def _several(self, count: int) -> float:
    """Makes steps; reading the last loss waits for all that the device was given before."""
    losses = [self._one() for _ in range(count)]
    return losses[-1].item()

  def check(self, steps: int) -> contest.Reply:
    """The first steps: their losses, and how far each kind of tensor has moved by then."""
    begin = time.perf_counter()
    losses = [self._several(1)]
    first = time.perf_counter() - begin
    losses += [self._several(1) for _ in range(steps - 1)]
    moved = {}
    for kind, tensors in self._tensors().items():
      pairs = zip(tensors, self._start[kind], strict=True)
      moved[kind] = sum(float((a.detach() - b).double().square().sum()) for a, b in pairs) ** 0.5
    return {'losses': losses, 'moved': moved, 'first_step_s': first}

  def steps(self, count: int, each: int = 1) -> contest.Reply:
    """Times `count` groups of `each` steps; the device is waited for at the end of a group."""
    groups = (contest.timed(lambda: self._several(each)) for _ in range(count))
    wall, cpu = zip(*groups, strict=True)
    peak = torch.cuda.max_memory_allocated() if self._device == 'cuda' else None
    return {'wall': wall, 'cpu': cpu, 'peak_memory': peak}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve(
    {'prepare': contestant.prepare, 'check': contestant.check, 'steps': contestant.steps}
  )
