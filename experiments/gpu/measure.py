"""Measures one job in a process of its own: `python measure.py JOB.json FOUND.json`.

JOB.json has the 'part', the 'case' of `jobs.py`, 'quick', a 'scratch' directory, the 'seconds' that
there are, and 'img_per_s' of training if it has been measured.
"""

import argparse
import collections
from collections.abc import Callable
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'experiments' / 'bench')]

import contest  # noqa: E402
import numpy as np  # noqa: E402

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_GROUPS, _GROUP_SECONDS = 7, 0.4
# k-NN's rows of the bank, queries, width
_KNN, _KNN_QUICK = (50_000, 10_000, 512), (500, 100, 16)


def quartiles(values: list[float]) -> list[float]:
  """The lower and the upper one."""
  if len(values) < 2:
    return [values[0], values[0]]
  low, _, high = statistics.quantiles(values, n=4, method='inclusive')
  return [low, high]


def per_group(seconds: float, quick: bool) -> int:
  """Steps of a timed group, from the seconds of one step."""
  return 1 if quick else max(1, min(500, round(_GROUP_SECONDS / max(seconds, 1e-6))))


def rates(seconds: list[float], images: int) -> dict[str, Any]:
  """Images per second, from the seconds of `images` in every group."""
  found = [images / each for each in seconds]
  return {'img_per_s': statistics.median(found), 'quartiles': quartiles(found), 'samples': found}


def memory(hlo: str, chip: Any, images: int, rate: float) -> dict[str, float | None]:
  """What a step's kernels read and write, and the share of the bandwidth; None if not on a GPU."""
  from byoljax.plan import kernels as launched

  if chip is None or chip.platform != 'cuda':
    return {'bytes_per_image': None, 'share_of_bandwidth': None}
  each = sum(launched.accessed(launched.totals(launched.find(hlo)))) / images
  return {'bytes_per_image': each, 'share_of_bandwidth': each * rate / chip.hbm_bandwidth}


def step(job: dict[str, Any]) -> dict[str, Any]:
  """A train step on a batch that lies on the device."""
  import attention_errors
  import jax
  from jax.sharding import NamedSharding, PartitionSpec
  import train_step

  from byoljax.devices import collectives, mapping
  from byoljax.ops import fused_attention
  from byoljax.plan import aot, flops, hardware

  case, further = job['case'], {}
  if 'attention' in case['options']:
    try:
      fused_attention.check_devices(jax.devices())
    except ValueError as error:
      return {'not_run': str(error)}
    further = {'attention_errors': attention_errors.measure()}
  mapped, state, batch = train_step.make(case)
  sharding = NamedSharding(mapping.local_mesh(), PartitionSpec(collectives.AXIS))
  batch = jax.block_until_ready(jax.tree.map(lambda x: jax.device_put(x, sharding), batch))
  work = flops.count(mapped, state, batch).total
  lowered = mapped.lower(state, batch)
  began = time.perf_counter()
  program = lowered.compile()
  compile_s = time.perf_counter() - began
  losses: list[float] = []

  def several(count: int) -> float:
    nonlocal state
    start = time.perf_counter()
    for _ in range(count):
      state, metrics = program(state, batch)
    jax.block_until_ready((state, metrics))
    seconds = time.perf_counter() - start
    losses.append(float(mapping.fetch(metrics)['loss']))
    return seconds / count

  several(1)
  each = per_group(several(1 if job['quick'] else 3), job['quick'])
  if job['part'] == 'trace':
    return _traced(job, several)
  seconds = [several(each) for _ in range(2 if job['quick'] else _GROUPS)]
  device, images = jax.devices()[0], case['batch_size']
  chip = hardware.chip_of(device.device_kind)
  found = rates(seconds, images) | further
  return found | {
    'steps_per_group': each,
    'compile_s': compile_s,
    'planned_bytes': aot.memory_of(program.memory_analysis()).needed,
    'peak_bytes': (device.memory_stats() or {}).get('peak_bytes_in_use'),
    'flops_per_image': work / images,
    'share_of_bf16_peak': found['img_per_s'] * work / images / chip.peak_bf16 if chip else None,
    **memory(program.as_text() or '', chip, images, found['img_per_s']),
    'first_loss': losses[0],
    'last_loss': losses[-1],
  }


def _traced(job: dict[str, Any], several: Callable[[int], float]) -> dict[str, Any]:
  import jax
  import kernels

  folder, count = pathlib.Path(job['scratch']) / 'trace', 1 if job['quick'] else 5
  jax.profiler.start_trace(str(folder))
  seconds = several(count)
  jax.profiler.stop_trace()
  return {'steps': count, 'traced_step_s': seconds, **kernels.read(folder, count)}


def training(job: dict[str, Any]) -> dict[str, Any]:
  """The loop of every run, with the data on the device and with batches from the host."""
  import resident_bench

  case, quick = job['case'], job['quick']
  found = resident_bench.measure(
    argparse.Namespace(
      recipe='byol.py' if quick else 'byol.py:cifar10',
      encoder='pixels' if quick else 'resnet18',
      dtype=case['dtype'],
      batch_size=8 if quick else case['batch_size'],
      steps=2 if quick else 50,
      rounds=1 if quick else 5,
      pause=0.0,
      data_dir=job['scratch'],
    )
  )
  return {
    way: {
      'img_per_s': found['median_img_per_s'][way],
      'quartiles': quartiles([sample['img_per_s'] for sample in samples]),
      'wait': statistics.median(sample['wait'] for sample in samples),
      'samples': samples,
    }
    for way, samples in found['samples'].items()
  }


def augment(job: dict[str, Any]) -> dict[str, Any]:
  """Every operator of the augmentation alone, and all of them."""
  import augment_bench

  quick, case = job['quick'], job['case']
  size, batch_size = (12, 4) if quick else (case['size'], case['batch_size'])
  options = {'size': size, 'source': size, 'batch_size': batch_size}
  options |= {'repeat': 1, 'rounds': 2} if quick else {'repeat': 10, 'rounds': 7}
  return augment_bench.measure(argparse.Namespace(**options))


def knn(job: dict[str, Any]) -> dict[str, Any]:
  """Predictions of all queries, and the evaluation with every k and temperature."""
  import jax_knn
  import knn_bench

  path = pathlib.Path(job['scratch']) / 'knn.npz'
  knn_bench.write(path, *(_KNN_QUICK if job['quick'] else _KNN))
  player = jax_knn.Contestant()
  case = {'path': str(path), 'k': 200, 'temperature': 0.07, 'classes': knn_bench.CLASSES}
  player.prepare(case, 1)
  found = {}
  for way in ('predict', 'evaluate'):
    first, *rest = [player.search(way, '')['wall'] for _ in range(2 if job['quick'] else 8)]
    found[way] = {'s': statistics.median(rest), 'quartiles': quartiles(rest), 'first_s': first}
  return found


def torch(job: dict[str, Any]) -> dict[str, Any]:
  """PyTorch's step from the same weights and views; this process makes them, on the CPU."""
  import train_step

  case, quick = job['case']['step'], job['quick']
  scratch = pathlib.Path(job['scratch'])
  _, state, _ = train_step.make(case)
  first, second = train_step.two_views(case)
  np.savez(scratch / 'start.npz', view1=first, view2=second, **train_step.arrays(state))
  environment = {n: v for n, v in os.environ.items() if n not in ('PYTHONPATH', 'JAX_PLATFORMS')}
  found: dict[str, Any] = {}
  for variant in ('channels_last',) if quick else ('channels_last', 'compiled'):
    command = [job['case']['python'], str(ROOT / 'experiments' / 'bench' / 'torch_step.py')]
    with contest.Contestant('torch_step', command, environment, scratch / 'torch.log') as player:
      facts = player.ask(
        'prepare', case=case, start=str(scratch / 'start.npz'), variant=variant,
        threads=os.cpu_count(), device='cpu' if quick else 'cuda',
      )  # fmt: skip
      check = player.ask('check', steps=3)
      (once,) = player.ask('steps', count=1, each=1 if quick else 3)['wall']
      each = per_group(once / (1 if quick else 3), quick)
      reply = player.ask('steps', count=2 if quick else _GROUPS, each=each)
    found[variant] = rates(reply['wall'], each * case['batch_size']) | {
      'first_step_s': check['first_step_s'],
      'first_loss': check['losses'][0],
      'peak_bytes': reply['peak_memory'],
      'versions': facts['versions'],
    }
  return found


def accuracy(job: dict[str, Any]) -> dict[str, Any]:
  """A training for about half of the seconds that there are, then k-NN and a linear classifier."""
  import jax

  from byoljax import config as config_lib
  from byoljax.data.sources import datasets
  from byoljax.encoders import load
  from byoljax.protocols import frozen_features, linear
  from byoljax.tasks import data as data_lib
  from byoljax.train import assemble, loop
  from byoljax.workdir.clock import Clock

  case, quick = job['case'], job['quick']
  length, fields = '2 steps', {'encoder.name': 'pixels', 'train.batch_size': 32}
  if not quick:
    rate = job['img_per_s'] or training(job)['resident']['img_per_s']
    length = f'{max(1, int(0.5 * job["seconds"] * rate / 50_000))} epochs'
    fields = {'encoder.dtype': case['dtype'], 'train.batch_size': case['batch_size']}
  fields |= {
    'data.dir': case['data'], 'train.length': length, 'optim.warmup': '10 %',
    'log.tensorboard': 'false', 'evals.linear.length': '2 steps' if quick else '5 epochs',
  }  # fmt: skip
  overrides = [(name, str(value)) for name, value in fields.items()]
  config = config_lib.load(f'{ROOT / "configs" / "byol.py"}:npz', overrides)
  run = assemble.from_config(config, datasets.load('npz', 'pretrain', data_dir=case['data']))
  data, why_not = data_lib.while_training(config, pathlib.Path(job['scratch']))
  if data is None:
    raise ValueError(why_not)
  state, began = run.layout.place(run.create()), time.perf_counter()
  clock = Clock(run.length.total_steps, run.length.batch_size)
  ((_, state, _),) = collections.deque(loop.training(run, state, 0, clock), maxlen=1)
  jax.block_until_ready(state)
  seconds = time.perf_counter() - began
  seen = load.preprocessing_of(config)
  encoder = load.of_state(run.method.net, state, seen, fields=config.encoder)
  protocol = linear.LinearProtocol(**config.evals.linear.to_dict())
  probe = linear.linear_result(encoder, data, protocol, logging=assemble.logging_of(config))
  return {
    'length': length, 'train_s': seconds, 'linear_length': config.evals.linear.length,
    'knn': frozen_features.knn_result(encoder, data, config.evals.knn)['top1'],
    'linear': probe['top1'],
  }  # fmt: skip


def facts() -> dict[str, Any]:
  """The device and the versions."""
  import jax

  stats = jax.devices()[0].memory_stats() or {}
  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'bytes_limit': stats.get('bytes_limit'),
    'versions': contest.versions(PACKAGES),
  }


MEASURED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
  'step': step, 'trace': step, 'training': training, 'augment': augment, 'knn': knn,
  'torch': torch, 'accuracy': accuracy,
}  # fmt: skip


def main(job_path: str, found_path: str) -> None:
  """Measures and writes what was found."""
  from byoljax.devices import xla

  xla.set_defaults()
  job = json.loads(pathlib.Path(job_path).read_text(encoding='utf-8'))
  found = MEASURED[job['part']](job)
  text = json.dumps(found | {'facts': facts()})
  pathlib.Path(found_path).write_text(text, encoding='utf-8')


if __name__ == '__main__':
  main(*sys.argv[1:])
