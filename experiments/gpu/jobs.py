"""What is measured on a GPU, in the order of its importance, and what still fits into the time."""

from typing import Any, NamedTuple

import step_bench

PARTS = ('step', 'training', 'augment', 'knn', 'trace', 'torch', 'accuracy')
METHODS = {'byol': 'BYOL', 'simclr': 'SimCLR', 'moco': 'MoCo', 'barlow_twins': 'Barlow Twins'}
_R18, _R50, _VIT = 'resnet18', 'resnet50', 'vit_small_6heads'
# network -> its size in pixels, options of `make_encoder`
_NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
  _R18: (32, {'stem': 'cifar'}),
  _R50: (224, {}),
  _VIT: (224, {}),
}


class Job(NamedTuple):
  """One process's work.

  Attributes:
    part: one of `PARTS`.
    name: what the row is called; no two have the same.
    need: seconds that it takes on a large GPU, guessed: with less left, it is not begun.
    limit: seconds after which it is ended.
    case: what to measure; see `measure.py`.
  """

  part: str
  name: str
  need: float
  limit: float
  case: dict[str, Any]


def fits(job: Job, left: float) -> float:
  """Seconds that the job gets of those that are left; 0 if it would not fit any more."""
  return 0.0 if left < job.need else min(job.limit, left)


def step_case(
  method: str,
  network: str,
  batch_size: int,
  dtype: str,
  quick: bool,
  augment: bool = False,
  attention: str = 'xla',
) -> dict[str, Any]:
  """A case of `train_step.py`: ResNet-18 with the CIFAR stem at 32 pixels, the others at 224."""
  size, options = _NETWORKS[network]
  given = {} if attention == 'xla' else {'attention': attention}
  case = step_bench.cases(method, False)['resnet18'] | {
    'encoder': network, 'options': options | given, 'size': size, 'batch_size': batch_size,
    'dtype': dtype, 'augment': augment,
  }  # fmt: skip
  if not quick:
    return case
  small = {head: [16, 8] for head in ('projector', 'predictor') if head in case['arguments']}
  small |= {'queue_size': 64} if method == 'moco' else {}
  tiny = 'vit_micro' if network == _VIT else 'small'
  return case | {
    'encoder': tiny, 'options': given, 'size': 16, 'batch_size': 8,
    'arguments': case['arguments'] | small,
  }  # fmt: skip


def jobs(quick: bool, data: str, torch_python: str) -> list[Job]:
  """Everything, the most important first.

  Args:
    quick: tiny sizes that prove that everything works; the numbers mean nothing.
    data: `.npz` file of CIFAR-10, for the accuracy; '' leaves it out.
    torch_python: interpreter with PyTorch; '' leaves it out.
  """

  def step(method: str, network: str, batch: int, dtype: str, **further: Any) -> Job:
    case = step_case(method, network, batch, dtype, quick, **further)
    name = f'{METHODS[method]}, {network}, {_NETWORKS[network][0]} px, batch {batch}, {dtype}'
    name += ', with augmentation' if case['augment'] else ''
    name += ', attention by cuDNN' if 'attention' in case['options'] else ''
    large = network != _R18
    return Job('step', name, 40 if large else 25, 150 if large else 100, case)

  def training(batch: int, dtype: str) -> Job:
    case = {'batch_size': batch, 'dtype': dtype}
    return Job('training', f'BYOL, {_R18}, 32 px, batch {batch}, {dtype}', 40, 120, case)

  def augment(size: int) -> Job:
    return Job('augment', f'{size} px, batch 256', 15, 60, {'size': size, 'batch_size': 256})

  def torch(batch: int, dtype: str) -> Job:
    case = step_case('byol', _R18, batch, dtype, False)
    if quick:
      case = step_bench.cases('byol', True)['small'] | {'batch_size': 8, 'dtype': dtype}
    name = f'BYOL, {_R18}, 32 px, batch {batch}, {dtype}'
    return Job('torch', name, 25, 90, {'step': case, 'python': torch_python})

  low, full = 'bfloat16', 'float32'
  first = [
    step('byol', _R18, 256, low),
    training(256, low),
    step('byol', _R18, 512, low),
    step('byol', _R50, 256, low),
    step('byol', _VIT, 256, low),
    step('byol', _VIT, 256, low, attention='cudnn'),
    step('barlow_twins', _VIT, 256, low, augment=True),
    Job('trace', f'BYOL, {_R18}, 32 px, batch 256, bfloat16', 20, 60,
        step_case('byol', _R18, 256, low, quick)),
    torch(256, low),
    Job('knn', '10,000 queries, 50,000 x 512', 15, 60, {}),
    augment(32),
    augment(224),
    Job('accuracy', f'BYOL, {_R18}, CIFAR-10, batch 256, bfloat16', 90, 150,
        {'data': data, 'batch_size': 256, 'dtype': low}),
    step('byol', _R18, 256, full),
    torch(256, full),
    step('byol', _R18, 512, full),
    torch(512, low),
    torch(512, full),
    training(512, low),
    training(256, full),
    step('byol', _R50, 256, low, augment=True),
    step('byol', _R50, 256, full),
    step('byol', _VIT, 256, full),
  ]  # fmt: skip
  others = [name for name in METHODS if name != 'byol']
  rest = [
    step(method, network, batch, dtype)
    for dtype in (low, full)
    for network, batch in ((_R18, 256), (_R18, 512), (_VIT, 256), (_R50, 256))
    for method in others
  ]
  if quick:
    return [job._replace(need=0.001, limit=600) for job in first + rest[: len(others)]]
  return first + rest
