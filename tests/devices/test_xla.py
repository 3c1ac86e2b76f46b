"""The settings of XLA that are made before it starts."""

import os
import sys
import types

import jax
from jax import lax
import jax.numpy as jnp
import jaxlib.version

from byoljax.devices import xla

FLAG = '--xla_cpu_experimental_ynn_fusion_type'


def test_flags_are_added_once(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  xla.set_defaults()
  xla.set_defaults()
  expected = f'--xla_force_host_platform_device_count=2 {FLAG}=-individual_convolution'
  assert os.environ['XLA_FLAGS'] == expected


def test_the_users_choice_stands(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', f'{FLAG}=dot')
  xla.set_defaults()
  assert os.environ['XLA_FLAGS'] == f'{FLAG}=dot'


def test_a_jaxlib_that_may_not_know_them_is_left_alone(monkeypatch):
  # An unknown flag ends the process, without a word about who has set it.
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  for version in ((0, 9, 2), (0, 13, 0), (1, 0, 0)):
    monkeypatch.setattr(jaxlib.version, '__version_info__', version)
    xla.set_defaults()
    assert 'XLA_FLAGS' not in os.environ


def test_gradients_of_convolutions_are_not_computed_by_ynnpack():
  # Set for all tests by conftest.py, as by main for a run.
  def loss(kernel, x):
    shape = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=shape).sum()

  arguments = jnp.zeros((3, 3, 64, 64)), jnp.zeros((8, 16, 16, 64))
  text = jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text()
  assert 'convolution(' in text
  assert 'ynn_fusion' not in text


def test_a_user_without_a_home_directory_has_no_cache(monkeypatch):
  """As in a container that runs under a number."""
  for name in ('HOME', 'BYOLJAX_DATA', 'XLA_FLAGS'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(os, 'getuid', lambda: 987654321)
  settings = types.SimpleNamespace(
    jax_num_cpu_devices=1, jax_compilation_cache_dir=None, jax_enable_compilation_cache=True
  )
  monkeypatch.setitem(sys.modules, 'jax', types.SimpleNamespace(config=settings))
  xla.keep_programs()  # It would fail to set what `settings` cannot be told.
