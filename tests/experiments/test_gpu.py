"""The GPU benchmark's own machinery: what fits, tables, traces, and one part; no speed."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.paths import ROOT

GPU = ROOT / 'experiments' / 'gpu'
_PARTS = 'step,training,augment,knn,trace,torch,accuracy'


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
  """Imports of the scripts, which lie beside one another."""
  monkeypatch.syspath_prepend(str(ROOT / 'experiments' / 'bench'))
  monkeypatch.syspath_prepend(str(GPU))


def _run(out, *arguments):
  command = [sys.executable, str(GPU / 'run.py'), '--quick', f'--out={out}', *arguments]
  one_device = os.environ | {'XLA_FLAGS': ''}
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_device)
  return done, json.loads((out / 'results.json').read_text()) if done.returncode == 0 else None


def _kernel(thread, name, ts, dur, **args):
  return {'ph': 'X', 'pid': 1, 'tid': thread, 'name': name, 'ts': ts, 'dur': dur, 'args': args}


_NAMES = [
  {'ph': 'M', 'pid': 1, 'name': 'process_name', 'args': {'name': '/device:GPU:0'}},
  {'ph': 'M', 'pid': 1, 'tid': 7, 'name': 'thread_name', 'args': {'name': 'Stream #7(Compute)'}},
  {'ph': 'M', 'pid': 1, 'tid': 8, 'name': 'thread_name', 'args': {'name': 'XLA Ops'}},
]
# Two steps, in microseconds: 0 ... 6 and 8 ... 10 are covered, 2 of it twice.
_EVENTS = [
  _kernel(7, 'fusion_12', 0, 4), _kernel(7, 'fusion_3', 2, 4), _kernel(7, 'gemm_tn', 8, 2),
  _kernel(8, 'fusion.12', 0, 9, hlo_op='fusion.12'), _kernel(7, 'nothing', 3, 0),
]  # fmt: skip


def test_a_trace_of_a_gpu_is_summed_over_its_streams(tmp_path):
  import kernels

  with gzip.open(tmp_path / 'host.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': _NAMES + _EVENTS}, file)
  found = kernels.read(tmp_path, steps=2)
  assert found['kernels'] == [
    {'name': 'fusion', 'us': 4, 'calls': 1, 'share': 0.8},
    {'name': 'gemm_tn', 'us': 1, 'calls': 0.5, 'share': 0.2},
  ]
  assert (found['us'], found['calls'], found['busy']) == (5, 1.5, 0.8)
  assert len(kernels.read(tmp_path, steps=2, top=1)['kernels']) == 1
  with pytest.raises(RuntimeError, match='no trace'):
    kernels.read(tmp_path / 'elsewhere', steps=2)
  with gzip.open(tmp_path / 'later.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': _NAMES}, file)
  with pytest.raises(RuntimeError, match='no kernels'):
    kernels.read(tmp_path, steps=2)


def test_a_trace_without_a_gpu_is_of_the_programs_operations():
  import kernels

  assert [row['name'] for row in kernels.summary(_EVENTS, 1)['kernels']] == ['fusion']
  assert kernels.summary([], 1) == {'kernels': [], 'us': 0, 'calls': 0, 'busy': 0}


def test_jobs_begin_only_where_they_fit_and_the_most_important_first():
  import jobs

  job = jobs.Job('step', 'x', need=20, limit=90, case={})
  assert [jobs.fits(job, left) for left in (19.9, 20, 50, 500, -3)] == [0, 20, 50, 90, 0]
  every = jobs.jobs(False, 'cifar10.npz', 'python')
  assert len({(each.part, each.name) for each in every}) == len(every)
  assert {each.part for each in every} == set(jobs.PARTS) == set(_PARTS.split(','))
  assert all(0 < each.need < each.limit for each in every)
  networks = [each.case['encoder'] for each in every if each.part == 'step']
  byol = [each.case['method'] == 'byol' for each in every if each.part == 'step']
  assert byol[:4] == [True] * 4 and set(networks[:4]) == set(networks), 'BYOL with every network'
  # By cuDNN directly after the same by XLA.
  (fused,) = (i for i, each in enumerate(every) if 'attention by cuDNN' in each.name)
  by_xla, by_cudnn = (each.case for each in every[fused - 1 : fused + 1])
  assert by_cudnn == by_xla | {'options': {'attention': 'cudnn'}} and by_xla['options'] == {}
  assert json.loads(json.dumps([each._asdict() for each in every]))
  # Twice 540 s of the slowest jobs would not fit; what is first does, whatever comes after it.
  assert sum(each.need for each in every[:10]) < 9 * 60


def test_groups_and_rates_are_those_of_the_formulas():
  import measure

  assert measure.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == [2, 4] and measure.quartiles([3]) == [3, 3]
  assert [measure.per_group(s, False) for s in (0.1, 3.0, 0.0)] == [4, 1, 500]
  assert measure.per_group(0.1, True) == 1
  found = measure.rates([1.0, 2.0, 4.0], 100)
  assert found['img_per_s'] == 50 and found['samples'] == [100, 50, 25]


def test_bytes_are_those_of_the_program_and_a_share_of_the_bandwidth():
  import measure

  from byoljax.plan import hardware

  chip = hardware.CHIPS['h100']
  # A copy of 1000 float32: 8,000 bytes for two images.
  hlo = 'ENTRY %main (x: f32[1000]) -> f32[1000] {\n  %x = f32[1000]{0} parameter(0)\n'
  hlo += '  ROOT %c = f32[1000]{0} copy(%x)\n}\n'
  found = measure.memory(hlo, chip, 2, chip.hbm_bandwidth / 8000)
  assert found == {'bytes_per_image': 4000, 'share_of_bandwidth': pytest.approx(0.5)}
  for other in (None, hardware.CHIPS['v4']):
    assert set(measure.memory(hlo, other, 2, 1.0).values()) == {None}


def test_errors_of_attention_are_those_of_its_type():
  import attention_errors

  # On a CPU both are XLA's. Two roundings to 8 bits, of the weights and of the result.
  found = attention_errors.measure((2, 5, 3, 8))
  assert found['xla'] == found['cudnn'] and 1e-4 < found['xla']['output'] < 2 * 2.0**-8
  for wrong in (0.05, float('nan')):
    with pytest.raises(RuntimeError, match='differs from'):
      attention_errors.checked({'xla': {'query': 0.01}, 'cudnn': {'query': wrong}})


def _results():
  step = {
    'img_per_s': 12345.6, 'quartiles': [12000, 13000], 'share_of_bf16_peak': 0.256,
    'share_of_bandwidth': 0.512,
    'flops_per_image': 7.5e9, 'compile_s': 31.2, 'planned_bytes': 4e9, 'peak_bytes': None,
    'first_loss': 3.25, 'facts': {'device': '1 x NVIDIA X', 'versions': {'jax': '0.11.2'}},
  }  # fmt: skip
  return {
    'command': 'python run.py', 'quick': False, 'seconds': 12, 'driver': 'Driver 1. ',
    'jobs': [
      {'part': 'step', 'name': 'A', 'found': step, 'took_s': 9},
      {'part': 'step', 'name': 'B', 'not_run': 'no time left'},
      {'part': 'training', 'name': 'C', 'failed': 'status 1, a | b'},
    ],
  }  # fmt: skip


def test_the_page_has_what_was_found_what_was_not_run_and_what_failed():
  import tables

  lines = tables.page(_results()).splitlines()
  assert lines[:2] == ['`python run.py`: 12 s.', '1 x NVIDIA X. Driver 1. jax 0.11.2.']
  assert '| A | 12,346 [12,000, 13,000] | 25.6% | 51.2% | 7.50 | 31.2 | 4.00 |  | 3.2500 |' in lines
  assert '| B | not run: no time left |  |  |  |  |  |  |  |' in lines
  assert '| C | failed: status 1, a / b |  |  |' in lines
  assert any('871' in line for line in lines) and 'k-NN | way' not in lines


@pytest.mark.slow
def test_a_part_is_measured_and_what_does_not_fit_is_not_begun(tmp_path):
  done, results = _run(tmp_path, '--only=knn,accuracy')
  assert done.returncode == 0, done.stderr
  knn, accuracy = sorted(results['jobs'], key=lambda job: job['part'], reverse=True)
  assert knn['found']['predict']['s'] > 0 and 'no --data' in accuracy['not_run']
  assert str(tmp_path) not in (tmp_path / 'results.json').read_text()
  assert (tmp_path / 'table.md').read_text() in done.stdout
  _, again = _run(tmp_path, '--only=augment', '--minutes=1e-9', '--missing')
  assert {job['part']: job.get('not_run') for job in again['jobs']} == {
    'knn': None, 'augment': 'no time left'
  }  # fmt: skip
  _, late = _run(tmp_path, '--only=knn', '--minutes=1e-9')
  assert [job.get('not_run') for job in late['jobs']] == ['no time left']


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--only=setp', "no part 'setp'"),
    ('--data=/does/not/exist', 'is not a file'),
    ('--torch-python=/does/not/exist', 'cannot be run'),
    ('--minutes=0', 'not a number of minutes above 0'),
  ],
)
def test_mistakes_on_the_command_line(argument, message, tmp_path):
  done, _ = _run(tmp_path, argument)
  assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_every_part_is_measured(tmp_path):
  import numpy as np

  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (300, 32, 32, 3), np.uint8), np.arange(300) % 10
  data = tmp_path / 'data.npz'
  np.savez(data, x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
  done, results = _run(tmp_path, f'--data={data}', '--minutes=60')
  assert done.returncode == 0, done.stderr
  assert {job.get('failed') for job in results['jobs']} == {None}
  found = {job['part'] for job in results['jobs'] if 'found' in job}
  assert found == set(_PARTS.split(',')) - {'torch'}
  first = results['jobs'][0]['found']
  assert first['flops_per_image'] > 0 and first['share_of_bf16_peak'] is None
  assert pathlib.Path(tmp_path / 'table.md').read_text().count('not run') == 5
