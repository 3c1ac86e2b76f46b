"""Bits of each image: those of the loss, alone; what the command and the report say of a run."""

import functools
import json
import types

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.main import main
from byoljax.method import transformed
from byoljax.tasks import likelihood
from tests.methods.test_contract import batch_of, make

KEY, STEP = jax.random.key(0), jnp.int32(0)
# Without what is random in training.
CHANGES = {
  'pixelcnn': {},
  'image_gpt': {},
  'prior': {'keep': 1.0, 'condition': 'class', 'text_weight': 1.0},
  'pixelcnn_pp': {'dropout': False, 'average': 0.0},
}


@pytest.mark.parametrize(
  'name',
  [
    'pixelcnn',
    'prior',
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('image_gpt', 'pixelcnn_pp')),
  ],
)
def test_bits_are_those_of_the_loss_one_image_at_a_time(name):
  method = make(name, axis=None, **CHANGES[name])
  batch = jax.tree.map(jnp.asarray, batch_of(name, rows=3))
  params, state = jax.jit(method.init)(KEY, batch)
  noise = functools.partial(np.random.default_rng(0).normal, scale=0.3)
  params = jax.tree.map(lambda x: jnp.asarray(noise(size=x.shape), jnp.float32), params)
  found = jax.jit(method.bits)(params, state, batch)
  assert found.shape == (3,)
  loss = jax.jit(lambda batch: method.loss(params, state, batch, KEY, STEP)[1].metrics)
  whole = loss(transformed(method, batch, KEY, STEP))['bits_per_dim']
  assert float(found.mean()) == pytest.approx(float(whole), rel=1e-5)
  # They differ, and the order of the images is theirs.
  assert np.ptp(found) > 1e-4
  np.testing.assert_allclose(
    jax.jit(method.bits)(params, state, jax.tree.map(lambda x: x[::-1], batch)), found[::-1],
    rtol=1e-5,
  )  # fmt: skip


def test_images_are_of_the_classes_that_the_run_was_trained_on(npz):
  data = {'name': 'npz', 'dir': str(npz), 'range': '', 'classes': (1,)}
  run = types.SimpleNamespace(config=ConfigDict({'data': data}))
  for split in ('pretrain', 'test'):
    assert set(likelihood._opened(run, split).labels) == {1}


@pytest.mark.slow
def test_a_run_is_scored_on_test_and_training_images(npz, tmp_path):
  arguments = [
    '--config=configs/image_gpt.py:smoke', f'--workdir={tmp_path}', '--config.data.name=npz',
    f'--config.data.dir={npz}', '--config.log.tensorboard=false', '--config.evals.report=true',
  ]  # fmt: skip
  assert main(arguments) == 0
  found = likelihood.likelihood(str(tmp_path), count=7)
  assert found['test_images'] == found['train_images'] == 7
  # 32 colors: little was learned in 6 steps.
  assert 3.5 < found['test_bits_per_dim'] < 5.5 and found['test_standard_error'] > 0
  assert json.loads((tmp_path / 'evals' / 'likelihood-6.json').read_text())['step'] == 6
  assert 'held-out bits per dim' in (tmp_path / 'report.html').read_text()
  with pytest.raises(ConfigError, match='count=-1'):
    likelihood.likelihood(str(tmp_path), count=-1)
