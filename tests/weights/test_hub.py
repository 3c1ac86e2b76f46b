"""Encoders on Hugging Face's hub, with a small module in place of its package."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

import byoljax
from byoljax import cli
from byoljax.config import ConfigError
from byoljax.tasks import export
from byoljax.weights import exporting, hub
from tests.fake_hub import FakeHub


@pytest.fixture
def fake(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', FakeHub(tmp_path))
  return sys.modules['huggingface_hub']


@pytest.fixture
def exported(untrained, tmp_path, monkeypatch):
  """A folder as `byoljax export` writes it; StableHLO takes long, and is tested elsewhere."""
  monkeypatch.setattr(exporting, 'serialized', lambda function, image: b'stablehlo')
  return export.write(str(untrained), 'online', tmp_path / 'exported')


def images():
  return np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)


def test_what_was_pushed_is_loaded(fake, exported, untrained, tmp_path, capsys):
  assert cli.run(['push', str(untrained), 'me/small', '--private']) == 0
  there = tmp_path / 'hub' / 'me' / 'small'
  files = {'README.md', 'config.json', 'encoder.stablehlo', 'model.safetensors', 'model_card.json'}
  # ONNX's file as well where its package is installed.
  assert {path.name for path in there.iterdir()} - {'encoder.onnx'} == files
  card = (there / 'README.md').read_text()
  assert 'pretrained with byol' in card and "byoljax.load('.')" in card
  assert fake.pushed == [('me/small', True)] and fake.message.startswith('Encoder of ')
  assert 'https://hub.example/me/small' in capsys.readouterr().out
  (there / 'pytorch_model.bin').write_bytes(b'a pickle')
  encoder = byoljax.load('hf:me/small@v1')
  assert fake.asked == [('me/small', 'v1')]
  fetched = tmp_path / 'cache' / 'me' / 'small'
  assert not (fetched / 'pytorch_model.bin').exists()
  assert not list(fetched.glob('encoder.*'))
  run = byoljax.load(untrained)
  np.testing.assert_array_equal(encoder(images()), run(images()))
  assert encoder.preprocessing == run.preprocessing and dict(encoder.fields) == dict(run.fields)


def test_an_exported_folder_has_one_network(fake, exported, capsys):
  assert cli.run(['push', str(exported), 'me/again', '--network=target']) == 2
  assert 'is an exported folder and has one network: leave it out' in capsys.readouterr().err
  assert not fake.pushed


def test_an_exported_folder_is_pushed_and_loaded_as_it_is(fake, exported, untrained, tmp_path):
  assert cli.run(['push', str(exported), 'me/again', '--message', 'Better']) == 0
  assert fake.message == 'Better' and fake.pushed == [('me/again', False)]
  assert (tmp_path / 'hub/me/again/model.safetensors').read_bytes() == (
    exported / 'model.safetensors'
  ).read_bytes()
  inner = byoljax.load(exported, tap='stage1')(images())
  np.testing.assert_array_equal(inner, byoljax.load(untrained, tap='stage1')(images()))
  with pytest.raises(ConfigError, match="unknown tap 'stag1'.*stage1"):
    byoljax.load(exported, tap='stag1')
  with pytest.raises(ConfigError, match='has one network'):
    byoljax.load(exported, 'target')


@pytest.mark.parametrize('name', ['small', 'me/', '/x', 'a/b/c', 'me/../x', 'https://x.org/a', ''])
def test_names_are_checked_before_anything_is_asked(fake, name, capsys):
  with pytest.raises(ConfigError, match='write owner/name'):
    byoljax.load(f'hf:{name}')
  assert cli.run(['push', 'runs/none', name]) == 2
  assert 'write owner/name' in capsys.readouterr().err
  assert not fake.asked and not fake.pushed


def test_what_goes_wrong_is_one_sentence(fake, exported, untrained, tmp_path, capsys):
  with pytest.raises(ConfigError, match="^'hf:me/none' could not be fetched: 404 Client Error.$"):
    byoljax.load('hf:me/none')
  (tmp_path / 'hub' / 'me' / 'pickled').mkdir(parents=True)
  (tmp_path / 'hub' / 'me' / 'pickled' / 'model.pth').write_bytes(b'a pickle')
  with pytest.raises(ConfigError, match='has no model.safetensors'):
    byoljax.load('hf:me/pickled')
  fake.known = False
  assert cli.run(['push', str(untrained), 'me/small']) == 2
  assert "error: the hub does not know you: Token is required. Log in with 'hf auth login'" in (
    capsys.readouterr().err
  )
  assert not fake.pushed


@pytest.mark.parametrize(
  ('changed', 'said'),
  [
    (None, 'was not written by byoljax'),
    ({'encoder': {}}, "somebody's own"),
    ({'encoder': {'name': 'os:system'}}, "somebody's own"),
    ({'mean': 3}, 'was not written by byoljax'),
    ({'image_size': 'large'}, 'was not written by byoljax'),
    ({'encoder': {'name': 'smal'}}, 'smal'),
  ],
)  # fmt: skip
def test_folders_of_others_are_refused(exported, changed, said):
  path = exported / 'config.json'
  stored = json.loads(path.read_text())
  stored['byoljax'] = None if changed is None else stored['byoljax'] | changed
  path.write_text(json.dumps(stored))
  with pytest.raises(ConfigError, match=said):
    byoljax.load(exported)


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ConfigError, match=r"pip install 'byoljax\[hub\]'"):
    byoljax.load('hf:me/small')
  assert cli.run(['push', str(tmp_path), 'me/small']) == 2


def test_the_real_package_takes_these_arguments():
  """Without a network: the calls bind, and a cache that is empty is one sentence."""
  import inspect

  huggingface_hub = pytest.importorskip('huggingface_hub', reason='needs byoljax[hub]')
  download = inspect.signature(huggingface_hub.snapshot_download)
  download.bind(repo_id='a/b', revision=None, allow_patterns=list(hub.FETCHED))
  api = huggingface_hub.HfApi
  inspect.signature(api.create_repo).bind(api, repo_id='a/b', private=False, exist_ok=True)
  inspect.signature(api.upload_folder).bind(api, repo_id='a/b', folder_path='x', commit_message='m')
  inspect.signature(api.whoami).bind(api)


def test_the_real_package_reads_its_cache(exported, untrained, tmp_path, monkeypatch):
  """As the hub's cache lies on the disk, with HF_HUB_OFFLINE: nothing is asked."""
  pytest.importorskip('huggingface_hub', reason='needs byoljax[hub]')
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  home, commit = pathlib.Path(tmp_path, 'cache', 'models--me--small'), 'a' * 40
  shutil.copytree(exported, home / 'snapshots' / commit)
  (home / 'refs').mkdir()
  (home / 'refs' / 'main').write_text(commit)
  encoder = byoljax.load('hf:me/small')
  np.testing.assert_array_equal(encoder(images()), byoljax.load(untrained)(images()))
  with pytest.raises(ConfigError, match='could not be fetched'):
    byoljax.load('hf:me/other')


def test_a_card_has_the_results_of_its_own_network(untrained, tmp_path, monkeypatch):
  run, told = tmp_path / 'run', []
  shutil.copytree(untrained, run)
  scores = {'top1': 0.5, 'mean_per_class': 0.4}
  stored = {'step': 0, 'result': {'byol': {'knn': scores, 'linear': scores}}}
  (run / 'results.json').write_text(json.dumps(stored))
  monkeypatch.setattr(exporting, 'write', lambda encoder, folder, about: told.append(about))
  monkeypatch.setattr(exporting, 'write_onnx', lambda encoder, folder: None)
  for network in ('online', 'random'):
    export.write(str(run), network, tmp_path / network)
  assert [about['results'] for about in told] == [stored['result'], {}]
