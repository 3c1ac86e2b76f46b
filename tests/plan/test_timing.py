"""The task 'bench': what is timed, what is counted and what is said; never how long it took."""

import collections
import contextlib
import gzip
import json
import os
import time
from unittest import mock

import jax
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.sources import datasets
from byoljax.devices import mapping
from byoljax.main import main
from byoljax.plan import aot, flops, hardware, timing, timing_report
from byoljax.train import loop
from byoljax.workdir import places
from tests.paths import ROOT
from tests.said import one_sentence

pytestmark = pytest.mark.usefixtures('made_once', 'no_pictures')
_PIXELS = ('--config.encoder.name=pixels', '--config.log.every=50 steps')


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def loaded(tiny, *changes):
  """(config, source) of the tiny run."""
  spec, *rest = [*tiny, *changes]
  overrides = [text.removeprefix('--config.').split('=', 1) for text in rest]
  config = config_lib.load(spec.removeprefix('--config='), [(a, b) for a, b in overrides])
  return config, datasets.load('npz', 'pretrain', data_dir=config.data.dir)


def test_the_task_times_a_recipe_that_is_shorter_and_trains_nothing(tiny, tmp_path, capsys):
  """And on views of their full size, where the run would begin with smaller ones."""
  arguments = ['--config.task=bench', '--config.bench.steps=3', '--config.bench.rounds=2']
  arguments += ['--config.train.length=2 steps', f'--workdir={tmp_path}']
  arguments += ['--config.train.progressive=0.67 until 50 %']
  assert main([*tiny, *_PIXELS, *arguments]) == 0
  out = capsys.readouterr().out
  assert [path.name for path in tmp_path.iterdir()] == ['bench.json']
  stored = json.loads((tmp_path / 'bench.json').read_text())
  found = stored['result']
  assert stored['config']['train']['length'] == '2 steps', "the user's own, not the longer one"
  assert found['views'] == [12, 12] and 'views of 12, 12 px' in out
  assert found['batch_size'] == 16 and found['devices'] == jax.device_count()
  assert not found['data_on_device'] and found['steps_per_call'] == 1
  for part, label in (('input', 'input only'), ('step', 'step only'), ('training', 'training')):
    timed = found[part]
    assert len(timed['samples']) == 2 and min(timed['samples']) > 0
    middle = sum(timed['samples']) / 2
    assert timed['ms_per_step'] == pytest.approx(1000 * middle)
    assert timed['img_per_s'] == pytest.approx(16 / middle)
    assert timed['s_per_epoch'] == pytest.approx(80 // 16 * middle)
    assert label in out
  assert 0 <= found['wait'] <= 1 and found['first_step_s'] > found['step']['samples'][0]
  assert found['peak_memory']['bytes'] > 1e7 and 'host' in found['peak_memory']['of']
  work = found['flops']
  assert work['peak_per_device'] is None and work['step']['share_of_peak'] is None
  assert '– of the peak' in out and str(tmp_path / 'bench.json') in out
  seconds = found['step']['ms_per_step'] / 1000
  assert work['step']['per_s'] == pytest.approx(work['per_image'] * 16 / seconds)
  mesh = aot.counting_mesh(jax.device_count())
  config, source = loaded(tiny, *_PIXELS)
  run = aot.assembled(config, source, mesh)
  planned = flops.count(run.step, *aot.abstract_arguments(run, mesh))
  assert work['per_device_and_step'] == dict(planned.flops), 'what the plan counts'
  assert work['per_image'] == planned.total * jax.device_count() / 16


def test_a_known_device_has_a_share_of_its_peak(monkeypatch):
  chip = hardware.CHIPS['v3']  # Two devices a chip: each has half of its peak.
  assert hardware.peaks(chip)['bfloat16'] == 61.5e12
  assert hardware.seconds_at_peak({'bfloat16': 123e12, 'float32': 61.5e12}, chip) == pytest.approx(
    3.0
  )
  assert hardware.seconds_at_peak({'float64': 1}, chip) is None
  assert hardware.chip_of('TPU v5 lite') is hardware.CHIPS['v5e']
  assert hardware.chip_of('NVIDIA H100 PCIe') is None, 'another board has another peak'
  assert set(hardware._KINDS.values()) == set(hardware.CHIPS)


@pytest.mark.slow
def test_data_on_the_device_are_timed_with_many_steps_per_call(tiny, monkeypatch):
  """As training runs them: calls end where the run logs, and the input is the examples' order."""
  monkeypatch.setattr(mapping, 'must_unroll', lambda: False)
  counts = collections.Counter()
  monkeypatch.setattr(loop, '_steps_at_once', lambda seconds: counts.update(['asked']) or 64)
  asked = []
  indices = timing.resident.examples
  monkeypatch.setattr(timing.resident, 'examples', lambda *a: asked.append(a[2]) or indices(*a))
  changes = ['--config.data.resident=on', '--config.bench.steps=9', '--config.bench.rounds=2']
  found = timing.measure(*loaded(tiny, *_PIXELS, '--config.log.every=4 steps', *changes))
  assert found['data_on_device'] and counts['asked'] == 1
  assert found['steps_per_call'] == 4 == max(asked), 'a call ends at a logged step'
  assert 'on the device, 4 steps per call' in timing_report.text(found)


@pytest.mark.slow
def test_a_slow_input_is_seen(tiny, monkeypatch):
  batches = loop.batches

  def slow(run, start_step):
    with contextlib.closing(batches(run, start_step)) as made:
      for batch in made:
        time.sleep(0.02)
        yield batch

  monkeypatch.setattr(loop, 'batches', slow)
  changes = ['--config.bench.steps=3', '--config.bench.rounds=1']
  found = timing.measure(*loaded(tiny, *_PIXELS, *changes))
  assert found['input']['ms_per_step'] >= 20 and found['training']['ms_per_step'] >= 20
  assert found['wait'] * found['training']['ms_per_step'] >= 19


@pytest.mark.parametrize(
  ('wait', 'step', 'training', 'place', 'sentence'),
  [
    (0.3, 10, 14, 'cpu', 'The input is the bottleneck'),
    (0.02, 10, 13, 'cpu', '30% longer than alone: the input uses the same cores.'),
    (0.02, 10, 13, 'NVIDIA H100 80GB HBM3', '30% longer than alone: copies to the device'),
    (0.02, 10, 10.5, 'cpu', 'The step is the bottleneck'),
  ],
)
def test_the_verdict(wait, step, training, place, sentence):
  found = {'wait': wait, 'step': {'ms_per_step': step}, 'training': {'ms_per_step': training}}
  found |= {'device_kind': place, 'data_on_device': False}
  assert sentence in timing_report.verdict(found)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    (['--config=configs/byol.py:smoke', '--config.bench.steps=0'], 'bench.steps=0'),
    (['--config=configs/byol.py:smoke', '--config.bench.steps=1e9'], 'more than a run may have'),
    (['--config=configs/knn.py'], 'configs/knn.py trains no encoder'),
  ],
)
def test_mistakes_are_one_sentence(changes, sentence, tmp_path, capsys):
  assert main([*changes, '--config.task=bench', f'--workdir={tmp_path / "new"}']) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith('error: ') and sentence in captured.err
  assert one_sentence(captured.err) and not (tmp_path / 'new').exists()


def test_a_workdir_that_cannot_be_written_is_refused_before_anything_is_timed(
  tmp_path, capsys, monkeypatch
):
  (tmp_path / 'file').touch()
  measure = mock.Mock()
  monkeypatch.setattr(timing, 'measure', measure)
  arguments = ['--config=configs/byol.py:smoke', '--config.task=bench']
  assert main([*arguments, f'--workdir={tmp_path / "file" / "new"}']) == 2
  error = capsys.readouterr().err
  assert f"--workdir='{tmp_path / 'file' / 'new'}' cannot be written" in error
  assert "file' is not a directory" in error and one_sentence(error)
  monkeypatch.setattr(os, 'access', lambda path, mode: False)  # Root may write anywhere.
  with pytest.raises(config_lib.ConfigError, match=f"cannot be written: '{tmp_path}' is read-"):
    places.require_folder(tmp_path / 'new')
  assert not measure.called and [path.name for path in tmp_path.iterdir()] == ['file']


def test_the_command_is_the_task(capsys):
  assert cli.run(['bench', 'byol', '--bench.steps=7', '--print_config']) == 0
  out = capsys.readouterr().out
  assert any('config.task' in line and "'bench'" in line for line in out.splitlines())
  assert any('bench.steps' in line and line.endswith('= 7') for line in out.splitlines())


def test_how_a_run_was_timed_does_not_make_it_another_run():
  old, new = (config_lib.load('configs/byol.py', [('bench.steps', n)]) for n in ('5', '9'))
  assert not config_lib.differences(old, new)


@pytest.mark.slow
def test_a_run_writes_a_trace_of_the_steps_that_it_is_asked_for(tiny, tmp_path):
  """The files that TensorBoard and Perfetto open, of a run through the command line."""
  arguments = ['--config.profile.start=3', '--config.profile.steps=2']
  short = ['--config.train.length=6 steps', '--config.evals.knn.max_bank=32', *_PIXELS]
  assert main([*tiny, *short, *arguments, f'--workdir={tmp_path}']) == 0
  (trace,) = (tmp_path / 'profile').rglob('*.trace.json.gz')
  with gzip.open(trace, 'rt') as file:
    events = json.load(file)['traceEvents']
  (plane,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert plane.stat().st_size > 1000
  names = [str(event.get('name')) for event in events]
  steps = [name for name in names if name.startswith('$loop.py') and name.endswith(' advance')]
  assert len(steps) == 2, 'calls of Python, by file and line'
  assert any('fusion' in name for name in names), 'what the device did, operation by operation'
