"""What a run computes on, in words; switches of JAX with which it does not work."""

import contextlib
import logging

import jax
import pytest

from byoljax.devices import backend
from byoljax.main import main
from tests.paths import ROOT
from tests.said import one_sentence


class Device:
  device_kind, platform = 'NVIDIA H200', 'gpu'

  def __init__(self, **facts):
    self.__dict__ |= facts


@contextlib.contextmanager
def switched(name, value):
  """A switch of JAX at another value."""
  before = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    yield
  finally:
    jax.config.update(name, before)


def test_devices_in_words(monkeypatch):
  with switched('jax_platforms', 'cpu'):
    assert backend.describe([]) == '4 CPU devices (JAX_PLATFORMS=cpu)'
  with switched('jax_platforms', None):
    assert backend.describe([]) == '4 CPU devices'
  monkeypatch.setattr(jax, 'devices', lambda: [Device()] * 8)
  assert backend.describe([]) == '8 x NVIDIA H200'


@pytest.mark.parametrize(
  ('devices', 'dtype'),
  [
    ([{'compute_capability': '9.0'}] * 2, 'bfloat16'),
    ([{'compute_capability': '8.0'}], 'bfloat16'),
    ([{'compute_capability': '12.0'}], 'bfloat16'),
    ([{'compute_capability': '7.5'}], 'float32'),
    ([{'compute_capability': '9.0'}, {'compute_capability': '7.0'}], 'float32'),
    ([{'compute_capability': 'gfx942'}], 'float32'),
    ([{}], 'float32'),
    ([{'platform': 'tpu', 'device_kind': 'TPU v5 lite'}], 'bfloat16'),
    ([{'platform': 'cpu', 'device_kind': 'cpu'}], 'float32'),
    ([{'platform': 'METAL'}], 'float32'),
  ],
)
def test_the_compute_type_is_that_of_all_devices(devices, dtype, monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: [Device(**facts) for facts in devices])
  assert backend.compute_type() == dtype


def test_a_gpu_that_is_not_used_is_mentioned_though_jax_is_silenced():
  """As `main` silences it, and as JAX says it: `_suggest_missing_backends`."""
  logging.getLogger('jax').setLevel(logging.ERROR)
  warning = 'An NVIDIA GPU may be present, but a CUDA-enabled jaxlib is not installed.'
  try:
    with backend.warnings_of_jax() as warnings:
      logging.getLogger('jax._src.xla_bridge').warning(warning)
      logging.getLogger('jax._src.xla_bridge').info('Unable to initialize backend')
  finally:
    logging.getLogger('jax').setLevel(logging.NOTSET)
  assert warnings == [warning]
  text = backend.describe(warnings)
  assert 'CPU' in text and warning in text and text.endswith("pip install 'byoljax[cuda]'")
  from jax._src import xla_bridge

  assert xla_bridge.logger.name == 'jax._src.xla_bridge', 'JAX has renamed its logger'


@pytest.mark.parametrize(
  'error', [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': not there. (set")]
)
def test_a_platform_that_is_not_there(monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  for asked, said in (('cuda', 'JAX_PLATFORMS=cuda: .*Unset it'), ('', 'devices of this machine')):
    with switched('jax_platforms', asked), pytest.raises(ValueError, match=said):
      backend.describe([])


@pytest.mark.parametrize(
  'switch, value',
  [('jax_enable_x64', True), ('jax_numpy_dtype_promotion', 'strict'),
   ('jax_transfer_guard', 'disallow'), ('jax_disable_jit', True)],
)  # fmt: skip
def test_switches_that_do_not_work_are_one_sentence(switch, value, tiny, tmp_path, capsys):
  with switched(switch, value):
    status = main([*tiny, f'--config={ROOT}/configs/byol.py:smoke', f'--workdir={tmp_path}/run'])
  error = capsys.readouterr().err
  assert status == 2 and one_sentence(error), error
  assert f'{switch.upper()}={value} does not work here, because' in error
  assert not (tmp_path / 'run').exists()
