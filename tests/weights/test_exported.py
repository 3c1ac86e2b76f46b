"""Exported folders: what is read back is what was written, whoever's names the weights have."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import byoljax
from byoljax import main
from byoljax.config import ConfigError
from byoljax.encoders.classifier import Classifier, Origin, trunk_network
from byoljax.encoders.encoder import Encoder, Preprocessing, network, pool_of, random_encoder
from byoljax.ops import readouts
from byoljax.tasks import import_weights
from byoljax.train import warm_start
from byoljax.weights import exporting, exporting_classifier, importing, model_card
from tests import imported

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def encoder_of(range_='', side=32, **fields):
  """An encoder with numbers drawn for its weights; nothing is compiled."""
  rng, preprocessing = np.random.default_rng(0), Preprocessing(MEAN, STD, side, range_)
  options = imported.FIELDS | fields
  net = network(options, preprocessing)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), preprocessing.example()))
  draw = lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32)  # noqa: E731
  params, bn = jax.tree.map(draw, shapes)
  return Encoder(net, params, bn, preprocessing, pool=pool_of(options), fields=options)


def write(encoder, folder):
  """What is read of a folder; StableHLO takes long, and is tested elsewhere."""
  folder.mkdir()
  save_file(exporting.weights_of(encoder), folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(exporting._config(encoder)))
  return folder


CASES = {
  'small': {'name': 'small', 'range_': '0,4095'},
  'resnet': {'name': 'resnet18', 'stem': 'cifar', 'range_': '0,4095'},
  'wide': {'name': 'vit_micro', 'width': 2, 'pool': 'mean'},
  'patches': {'name': 'vit_micro', 'patch_size': 8},  # 4 x 4 of the fixed positions of 8 x 8
  'registers': {'name': 'dinov2_micro_reg'},
  'rotary': {'name': 'dinov3_micro', 'width': 2, 'positions': 'rope_bf16'},
  'convnext': {'name': 'convnext_micro', 'width': 2},
}


@pytest.mark.parametrize('case', CASES)
def test_an_exported_encoder_is_read_as_it_was(case, tmp_path):
  encoder = encoder_of(**CASES[case])
  folder = write(encoder, tmp_path / 'folder')
  reading = importing.encoder_of(str(folder), imported.FIELDS, mean=(0.1,) * 3, std=(0.1,) * 3)
  started = warm_start.load(str(folder / 'model.safetensors'), mean=(0.1,) * 3, std=(0.1,) * 3)
  for again in (reading.encoder, byoljax.load(folder), started):
    assert dict(again.fields) == dict(encoder.fields) and again.pool == encoder.pool
    assert again.preprocessing == encoder.preprocessing
    jax.tree.map(np.testing.assert_array_equal, again.params, encoder.params)
    jax.tree.map(np.testing.assert_array_equal, again.bn, encoder.bn)
  assert not reading.unread and reading.found.fields == {'name': encoder.fields['name']}
  warm_start.find(encoder.params, {'bn': encoder.bn}, started)  # It fits.
  here = encoder.preprocessing._replace(mean=(0.1,) * 3, range='stretch')
  assert warm_start.differences(started, encoder.fields, here) == [
    f'data.mean is (0.1, 0.1, 0.1) here, {MEAN} where the weights were trained',
    f"data.range is 'stretch' here, '{encoder.preprocessing.range or 'file'}' where the weights "
    'were trained',
  ]


def test_weights_of_another_library_in_the_place_are_looked_at(tmp_path):
  """A folder whose config.json is not ours, and another file in a folder that is."""
  encoder = encoder_of(name='resnet18', stem='cifar')
  folder = write(encoder, tmp_path / 'folder')
  (folder / 'model.safetensors').rename(folder / 'other.safetensors')
  read = importing.encoder_of(str(folder / 'other.safetensors'), imported.FIELDS)
  assert read.encoder.preprocessing.mean == importing.IMAGENET_MEAN
  (folder / 'other.safetensors').rename(folder / 'model.safetensors')
  (folder / 'config.json').write_text('{"model_type": "resnet"}')
  read = importing.encoder_of(str(folder), imported.FIELDS)
  assert read.encoder.preprocessing.mean == importing.IMAGENET_MEAN
  assert read.found.fields == {'name': 'resnet18', 'width': 1, 'stem': 'cifar'}
  with pytest.raises(ConfigError, match='was not written by byoljax'):
    byoljax.load(folder)


@pytest.mark.parametrize('case', ['small', 'patches'])
def test_it_is_imported_with_its_images(case, tmp_path, npz, capsys):
  encoder, run = encoder_of(**CASES[case]), tmp_path / 'run'
  folder = write(encoder, tmp_path / 'folder')
  command = [
    '--config=configs/import_weights.py', f'--config.file={folder}', f'--workdir={run}',
    '--config.data.name=npz', f'--config.data.dir={npz}', '--config.prefix=',
  ]  # fmt: skip
  for field, said in (
    (
      'data.mean=(0.1,0.2,0.3)',
      'data.mean=(0.1, 0.2, 0.3), but according to these weights it is (0.49, 0.48',
    ),
    ('encoder.width=7', 'encoder.width=7, but according to these weights it is 1'),
  ):
    assert main.main([*command, f'--config.{field}']) == 2
    assert said in capsys.readouterr().err and not run.exists()
  assert main.main(command) == 0
  told = capsys.readouterr().out
  assert f'{encoder.fields["name"]}: every weight fits.' in told and 'Not imported' not in told
  again = byoljax.load(run)
  assert again.preprocessing == encoder.preprocessing
  assert dict(again.fields) == dict(encoder.fields)


def test_a_folder_gives_its_name_to_the_run(tmp_path, monkeypatch):
  for folder in ('byol/export', 'model-v1.0'):
    (tmp_path / folder).mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'byol' / 'export')
  for file, name in (
    ('.', 'byol'), ('..', 'byol'), ('../../byol/export', 'byol'),
    ('../../model-v1.0', 'model-v1.0'), ('there/resnet50.pth', 'resnet50'),
  ):  # fmt: skip
    assert import_weights.default_workdir(file) == f'runs/{name}'


def test_registers_and_fixed_positions_are_as_in_timm(tmp_path):
  """Its networks with registers have no position of the class token."""
  encoder = encoder_of(**CASES['registers'])
  weights = exporting.weights_of(encoder)
  assert weights['pos_embed'].shape == (1, 64, 64)
  save_file(weights, tmp_path / 'x.safetensors')
  reading = importing.encoder_of(str(tmp_path / 'x.safetensors'), imported.FIELDS)
  assert reading.encoder.fields['positions'] == 'sincos' and not reading.unread
  jax.tree.map(np.testing.assert_array_equal, reading.encoder.params, encoder.params)


def test_a_module_of_ones_own_is_not_imported(tmp_path):
  folder = write(encoder_of(**CASES['small']), tmp_path / 'folder')
  about = json.loads((folder / 'config.json').read_text())
  about['byoljax']['encoder']['name'] = 'os:system'
  (folder / 'config.json').write_text(json.dumps(about))
  with pytest.raises(ValueError, match="somebody's own"):
    importing.encoder_of(str(folder), imported.FIELDS)


@pytest.mark.parametrize('case', ['small', 'resnet'])
def test_what_is_read_out_behind_the_embedding_is_not_taken_for_it(case, tmp_path):
  """Its features may have the embedding's shape: nothing else would tell."""
  plain = encoder_of(**CASES[case] | {'range_': ''})
  net = trunk_network(plain, {'features': (plain.dim,)})
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), plain.preprocessing.example()))
  params, bn = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  encoder = dataclasses.replace(plain, net=net, params=params, bn=bn, tap='trunk')
  names = [name.split('/')[:2] for name in exporting.weights_of(encoder)]
  assert {role for tree, role in names if tree == 'params'} == {'encoder', 'projector'}
  folder = write(encoder, tmp_path / 'folder')
  for read in (byoljax.load, lambda path: importing.encoder_of(str(path), imported.FIELDS)):
    with pytest.raises(ValueError, match="is read out at its 'trunk', which a folder cannot"):
      read(folder)
  about = {'method': 'byol', 'data': 'shapes', 'network': 'online', 'step': 3, 'results': {}}
  for each, has in ((plain, True), (encoder, False)):
    card = model_card.render(exporting._card(each, about, 1))
    assert ('import safetensors.torch' in card) == ('byoljax.load' in card) == has
    assert ('read out at `trunk`' in card) != has


@pytest.mark.parametrize(('range_', 'kind'), [('', 'uint8'), ('0,4095', 'float32 in [0, 1]')])
def test_the_card_of_a_classifier_says_what_it_takes(range_, kind, tmp_path):
  encoder = random_encoder({'name': 'pixels'}, Preprocessing(MEAN, STD, 4, range_), 0)
  readout = readouts.Linear(np.ones((48, 2), np.float32), np.zeros(2, np.float32), unit=False)
  made = Classifier(encoder, readout, ('a', 'b'), 1.0, {}, Origin({}, 'online'))
  (tmp_path / 'README.md').touch()
  exporting_classifier.write(made, tmp_path)
  said = f'chances = run.call(images)  # {kind} [b, 4, 4, 3] -> float32 [b, 2]\n'
  assert said in (tmp_path / 'README.md').read_text()
