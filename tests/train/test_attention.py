"""Runs whose attention is cuDNN's: the step for its devices, refusals, and what is read of them."""

from collections import Counter
import json
import shutil

import jax
import pytest

import byoljax
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.sources import datasets
from byoljax.models import vit
from byoljax.plan import aot
from byoljax.train import assemble
from tests.ops.test_fused_attention import calls, cudnn  # noqa: F401
from tests.paths import ROOT


@pytest.fixture(scope='module')
def config():
  options = [('encoder.attention', 'cudnn'), ('encoder.dtype', 'bfloat16')]
  return config_lib.load(f'{ROOT / "configs" / "mae.py"}:smoke', options)


@pytest.fixture
def source(config):
  return datasets.load(config.data.name, 'pretrain')


def test_devices_without_the_kernel_are_refused_before_training(config, source):
  message = r"^encoder.attention='cudnn' needs NVIDIA GPUs .* and this run has cpu: set it to 'xla'"
  with pytest.raises(ConfigError, match=message):
    assemble.from_config(config, source)


@pytest.mark.slow
@pytest.mark.usefixtures('cudnn')
def test_the_step_for_cuda_has_the_kernel_in_every_block_of_encoder_and_decoder(config, source):
  mesh = aot.mesh_of(jax.devices()[:2])
  run = aot.assembled(config, source, mesh)
  traced = run.step.trace(*aot.abstract_arguments(run, mesh))
  blocks = vit.VITS['vit_micro'].depth + config.method.decoder_depth
  found = Counter(calls(traced.lower(lowering_platforms=('cuda',)).as_text()))
  assert found == {'__cudnn$fmhaSoftmax': blocks, '__cudnn$fmhaSoftmaxBackward': blocks}
  assert not calls(traced.lower(lowering_platforms=('cpu',)).as_text())


def test_an_encoder_is_read_for_any_device(finished, tmp_path):
  """Its own option would be refused here: this run's encoder is no vision transformer."""
  shutil.copytree(finished, tmp_path / 'run')
  path = tmp_path / 'run' / 'config.json'
  record = json.loads(path.read_text())
  record['config']['encoder']['attention'] = 'cudnn'
  path.write_text(json.dumps(record))
  assert byoljax.load(tmp_path / 'run').fields['attention'] == 'xla'
