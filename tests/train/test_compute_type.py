"""`encoder.dtype`=auto: where it is, what becomes of it, and what is stored."""

import json
import shutil

import jax
import pytest

from byoljax import config as config_lib
from byoljax.data.sources import datasets
from byoljax.devices import backend
from byoljax.main import main
from byoljax.plan import command
from byoljax.train import assemble
from configs import byol, scales
from tests.devices.test_backend import Device
from tests.paths import ROOT

ACCELERATED = {'cifar10', 'imagenette', 'imagenet', 'folder', 'npz'}


@pytest.fixture
def gpus(monkeypatch):
  """The devices look like GPUs to whom asks what they compute best in."""
  look = backend._multiplies_bfloat16
  monkeypatch.setattr(
    backend, '_multiplies_bfloat16', lambda device: look(Device(compute_capability='9.0'))
  )


def test_scales_for_accelerators_leave_it_to_the_devices():
  found = {name for name in scales.SCALES if byol.get_config(name).encoder.dtype == 'auto'}
  assert found == ACCELERATED
  assert byol.get_config('cifar10,smoke').encoder.dtype == 'float32'


def resolved(npz, *fields):
  """The compute type that `byol:npz` gets."""
  shared = {
    'data.dir': str(npz), 'train.batch_size': '16', 'encoder.name': 'small',
    'train.length': '20 epochs', 'method.projector': '(16,8)', 'method.predictor': '(16,8)',
  }  # fmt: skip
  config = config_lib.load(f'{ROOT}/configs/byol.py:npz', [*shared.items(), *fields])
  source = datasets.load('npz', 'pretrain', data_dir=str(npz))
  assemble.from_config(config, source)
  return config.encoder.dtype


def test_the_devices_decide_unless_it_is_given(npz, gpus):
  low = ('encoder.dtype', 'bfloat16')
  assert resolved(npz) == 'bfloat16'
  assert resolved(npz, ('encoder.dtype', 'float32')) == 'float32'
  assert resolved(npz, low) == 'bfloat16'


def test_cpus_compute_in_float32(npz):
  assert jax.devices()[0].platform == 'cpu'
  assert resolved(npz) == 'float32'
  assert resolved(npz, ('encoder.dtype', 'bfloat16')) == 'bfloat16'


def test_a_run_stores_its_type_and_resumes_in_no_other(
  tiny, finished, tmp_path, capsys, monkeypatch, no_pictures
):
  """Where the devices are others that would compute in another."""
  monkeypatch.chdir(ROOT)
  workdir = tmp_path / 'run'
  shutil.copytree(finished, workdir)
  arguments = [
    *tiny,
    '--config.log.csv=true',
    f'--workdir={workdir}',
    '--config.encoder.dtype=auto',
  ]
  assert main(arguments) == 0
  assert 'already complete' in capsys.readouterr().out
  stored = json.loads((workdir / 'config.json').read_text())
  assert stored['config']['encoder']['dtype'] == 'float32'
  monkeypatch.setattr(backend, '_multiplies_bfloat16', lambda device: True)
  assert main(arguments) == 2
  error = capsys.readouterr().err
  assert "encoder.dtype: 'float32' -> 'bfloat16'" in error
  assert '--encoder.dtype=float32 computes as the run began' in error
  assert main([*arguments, '--config.encoder.dtype=float32']) == 0


@pytest.mark.parametrize(
  ('machine', 'dtype', 'planned'),
  [('h100:1x8', 'auto', 'bfloat16'), ('v5e:2x2', 'float32', 'float32')],
)
def test_a_plan_is_for_the_machine_that_is_described(machine, dtype, planned, tmp_path):
  out = tmp_path / 'plan.json'
  arguments = [f'--topology={machine}', '--no_compile', f'--out={out}']
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  assert command.main([recipe, *arguments, f'--config.encoder.dtype={dtype}']) == 0
  plan = json.loads(out.read_text())
  assert plan['run']['dtype'] == planned
  assert ('bfloat16' in plan['flops']['per_device_and_step']) == (planned == 'bfloat16')
