"""Encoders read out at any tap, the tasks on several taps, and what does not change results."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byoljax
from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.data.augment import device
from byoljax.data.sources import datasets
from byoljax.encoders import load, method_network
from byoljax.encoders.encoder import EMBEDDING
from byoljax.models import heads, make_encoder
from byoljax.models.net import stack
from byoljax.models.taps import gridded, pooled, taps_of, truncate
from byoljax.report import facts
from byoljax.workdir import checkpoint, run_dir
from byoljax.workdir.files import write_json
from tests.paths import ROOT

TAPS = ('stem', 'stage1', 'stage2', 'embedding', 'projector/hidden1', 'projection')
ONLINE = (*TAPS, 'predictor/hidden1', 'prediction')


@pytest.fixture(scope='module')
def run(tmp_path_factory, npz):
  """An untrained run of BYOL with its heads, and another draw as its target."""
  workdir = tmp_path_factory.mktemp('with_heads') / 'run'
  workdir.mkdir()
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz,smoke')
  with config.unlocked():
    config.data.update(name='npz', dir=str(npz))
    config.evals.image_size = 12
    config.method.update(projector=(16, 8), predictor=(24, 8))
    for view in config.views.values():
      view.size = 12
  facts = {'num_examples': 80, 'num_classes': 3, 'num_devices': 4, 'steps_per_epoch': 5,
           'total_steps': 6, 'given': {}}  # fmt: skip
  stored = {
    'recipe': 'configs/byol.py:npz,smoke', 'config': json.loads(config.to_json()), 'facts': facts
  }  # fmt: skip
  write_json(workdir / 'config.json', stored)
  net = method_network.network(config, workdir)
  assert net is not None
  image = jnp.zeros((2, 12, 12, 3))
  (params, bn), (target, target_bn) = (net.init(jax.random.key(i), image) for i in (0, 1))
  state = {
    'params': params,
    'method_state': {
      'bn': bn,
      'target_params': {role: target[role] for role in ('encoder', 'projector')},
      'target_bn': {role: target_bn[role] for role in ('encoder', 'projector')},
    },
  }
  with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
    checkpoints.save(3, state, {})
  return workdir


@pytest.fixture(scope='module')
def images(run):
  source = datasets.load('npz', 'test', data_dir=run_dir.run_config(run).data.dir)
  return source.read(np.arange(6))[0]


def normalized(run, images):
  data = run_dir.run_config(run).data
  return device.make_eval_transform(tuple(data.mean), tuple(data.std))(images)


class TestNet:
  NET = stack(
    (
      ('encoder', 'embedding', make_encoder('small')),
      ('projector', 'projection', heads.MLPHead((16, 8))),
      ('predictor', 'prediction', heads.MLPHead((24, 8))),
    )
  )

  def test_taps_in_the_order_of_computation(self):
    found = taps_of(self.NET, jnp.zeros((5, 16, 16, 3)))
    assert tuple(found) == ONLINE
    assert found['stage1'] == (5, 4, 4, 32) and found['predictor/hidden1'] == (5, 24)

  def test_truncation_keeps_what_the_taps_need(self):
    roles = {tap: [part[0] for part in truncate(self.NET, [tap]).parts] for tap in ONLINE}
    assert roles['stem'] == roles['embedding'] == ['encoder']
    assert roles['projector/hidden1'] == roles['projection'] == ['encoder', 'projector']
    assert roles['prediction'] == ['encoder', 'projector', 'predictor']

  def test_equal_names_in_two_heads_are_kept_apart(self):
    x = jnp.ones((2, 16, 16, 3))
    params, stats = self.NET.init(jax.random.key(0), x)
    two = truncate(self.NET, ['projector/hidden1', 'predictor/hidden1'])
    outputs, _ = jax.jit(lambda p, s: two.apply(p, s, x, train=False))(params, stats)
    assert outputs['projector/hidden1'].shape == (2, 16)
    assert outputs['predictor/hidden1'].shape == (2, 24)

  def test_one_vector_an_image(self):
    maps = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_allclose(pooled(jnp.asarray(maps)), maps.reshape(1, 6, 4).mean(1))
    tokens = jnp.asarray([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_allclose(pooled(tokens), [[9, 9]])
    np.testing.assert_allclose(pooled(tokens, 'mean'), [[2, 3]])
    np.testing.assert_array_equal(pooled(jnp.eye(3)), np.eye(3))

  def test_a_grid_of_about_so_many_values(self):
    maps = jnp.arange(2.0 * 6 * 6 * 4).reshape(2, 6, 6, 4)
    by_hand = maps.reshape(2, 3, 2, 3, 2, 4)
    np.testing.assert_allclose(gridded(maps, 36), by_hand.mean((2, 4)), rtol=1e-6)
    np.testing.assert_allclose(gridded(maps, 36, 'max'), by_hand.max((2, 4)))
    # What the papers read of AlexNet and of ResNets: about 9,000 values.
    edges = {64: 12, 192: 7, 384: 5, 256: 6, 96: 10, 2048: 2}
    for channels, edge in edges.items():
      found = jax.eval_shape(lambda x: gridded(x, 9216), jnp.zeros((1, 30, 30, channels)))
      assert found.shape == (1, edge, edge, channels)
    assert gridded(maps, 9216).shape == maps.shape, 'no map is made larger'
    np.testing.assert_allclose(gridded(jnp.eye(3), 9), jnp.eye(3))


class TestLoading:
  def test_heads_are_the_networks_own(self, run, images):
    net = method_network.network(run_dir.run_config(run), run)
    state = checkpoint.restore_subtrees(run / 'checkpoints' / '3', [('params',), ('method_state',)])
    x = normalized(run, images)
    apply = jax.jit(net.apply, static_argnames=('train', 'upto'))
    online, _ = apply(state['params',], state['method_state',]['bn'], x, train=False)
    target, _ = apply(
      state['method_state',]['target_params'], state['method_state',]['target_bn'], x,
      train=False, upto='projection',
    )  # fmt: skip
    for name, wanted, taps in (('online', online, ONLINE), ('target', target, TAPS)):
      for tap in ('embedding', 'projection', 'prediction'):
        if tap in taps:
          found = byoljax.load(str(run), name, tap)(images)
          np.testing.assert_allclose(found, wanted[tap], rtol=1e-4, atol=1e-5)
    assert np.abs(online['projection'] - target['projection']).max() > 0.01

  def test_an_inner_map_is_averaged(self, run, images):
    config = run_dir.run_config(run)
    encoder, _, _ = load.load_encoder(str(run), 'online')
    net = stack((('encoder', 'embedding', make_encoder(**config.encoder)),), taps=('stage1',))
    apply = jax.jit(net.apply, static_argnames='train')
    maps, _ = apply(encoder.params, encoder.bn, normalized(run, images), train=False)
    got = byoljax.load(str(run), tap='stage1')(images)
    np.testing.assert_allclose(got, maps['stage1'].mean((1, 2)), rtol=1e-4, atol=1e-5)

  def test_only_what_is_needed_is_read(self, run, monkeypatch):
    asked = []
    restore = checkpoint.restore_subtrees
    monkeypatch.setattr(
      checkpoint, 'restore_subtrees', lambda d, p: asked.extend(p) or restore(d, p)
    )
    load.load_encoder(str(run), 'online')
    load.load_encoder(str(run), 'target', 'stage2')
    assert {path[-1] for path in asked} == {'encoder'}
    load.load_encoder(str(run), 'target', 'projection')
    assert {path[-1] for path in asked} == {'encoder', 'projector'}

  @pytest.mark.parametrize(
    ('network', 'tap', 'sentence'),
    [
      ('online', 'projektion', "did you mean 'projection'"),
      ('target', 'prediction', f'taps: {", ".join(TAPS)}'),
      ('pixels', 'projection', 'taps: embedding'),
    ],
  )
  def test_a_tap_that_is_not_there_lists_those_that_are(self, run, network, tap, sentence):
    with pytest.raises(ConfigError, match=f"tap='{tap}': the {network} network of .*{sentence}"):
      load.load_encoder(str(run), network, tap)

  def test_without_heads_in_the_checkpoint_there_are_the_encoders_taps(self, untrained):
    _, taps, _, _ = load.load_taps(str(untrained), 'online')
    assert taps == ('stem', 'stage1', 'stage2', 'embedding')
    with pytest.raises(ConfigError, match='holds no method_state/target_params'):
      load.load_taps(str(untrained), 'target')

  def test_baselines_have_heads_too(self, run, images):
    features = {
      name: np.asarray(byoljax.load(str(run), name, 'projection')(images))
      for name in ('random', 'random_rescaled')
    }
    assert features['random'].shape == (6, 8)
    assert np.abs(features['random'] - features['random_rescaled']).max() > 0.01

  def test_rescaled_to_the_runs_own_images(self, run):
    """On all 80 training images (256 are asked for), pooled units of the last map vary by 1."""
    encoder, config, _ = load.load_encoder(str(run), 'random_rescaled', 'projection')
    source = datasets.load('npz', 'pretrain', data_dir=config.data.dir)
    x = normalized(run, source.read(np.arange(source.size))[0])
    z = jax.jit(encoder.read)(encoder.params, encoder.bn, x)
    # The last layer of BYOL's projector has no bias: it is scaled and not shifted.
    np.testing.assert_allclose(np.std(z, 0), 1, atol=1e-3)


def result_of(folder):
  return json.loads((pathlib.Path(folder) / 'result.json').read_text())['result']


def test_layers_from_pixels_to_prediction(run, tmp_path, capsys):
  arguments = ['--layers.logistic=true', '--layers.lambdas=(1.0,)']
  assert cli.run(['layers', str(run), f'--workdir={tmp_path}/all', *arguments]) == 0
  rows = result_of(tmp_path / 'all')['rows']
  assert [row['tap'] for row in rows] == ['pixels', *ONLINE]
  by_tap = {row['tap']: row for row in rows}
  assert by_tap['pixels']['dimensions'] == 432 and by_tap['prediction']['dimensions'] == 8
  # The last map, averaged, is a ResNet's embedding.
  assert by_tap['stage2'] | {'tap': ''} == by_tap['embedding'] | {'tap': ''}
  for task in ('knn', 'logistic'):
    more = ['--logistic.lambdas=(1.0,)'] if task == 'logistic' else []
    arguments = [f'--workdir={tmp_path}/{task}', '--tap=projection', *more]
    assert cli.run([task, str(run), *arguments]) == 0
    assert result_of(tmp_path / task)['top1'] == by_tap['projection'][f'{task}_top1']
  assert 'logistic top-1' in capsys.readouterr().out
  assert cli.run(['layers', str(run), f'--workdir={tmp_path}/some', '--network=target',
                  "--taps=('projection','stem')"]) == 0  # fmt: skip
  assert [row['tap'] for row in result_of(tmp_path / 'some')['rows']] == ['stem', 'projection']


def test_layers_of_the_pixels_alone(untrained, tmp_path):
  command = ['layers', str(untrained), f'--workdir={tmp_path}', "--taps=('pixels',)"]
  assert cli.run(command) == 0
  (row,) = result_of(tmp_path)['rows']
  assert (row['tap'], row['dimensions']) == ('pixels', 432)
  assert result_of(tmp_path)['k'] == 80, 'not 200: so many training images there are'


SHORT = ['--linear.length=2 epochs', '--linear.batch_size=16', '--log.tensorboard=false']


@pytest.fixture(scope='module')
def probed(run, tmp_path_factory):
  """Linear probes of several layers, and what was told."""
  home, told = tmp_path_factory.mktemp('probed'), io.StringIO()
  command = ['layers', str(run), '--probe=linear', f'--workdir={home}', *SHORT]
  taps = "--taps=('pixels','stem','stage2','embedding')"
  with contextlib.redirect_stdout(told):
    assert cli.run([*command, taps, '--layers.dimensions=600', '--layers.pool=max']) == 0
  return home, told.getvalue()


def test_linear_probes_of_all_layers_are_trained_in_one_pass(probed):
  home, told = probed
  assert 'linear top-1' in told
  rows = {row['tap']: row for row in result_of(home)['rows']}
  assert {tap: row['dimensions'] for tap, row in rows.items()} == {
    'pixels': 12 * 12 * 3, 'stem': 6 * 6 * 16, 'stage2': 2 * 2 * 128, 'embedding': 128,
  }  # fmt: skip
  stored = json.loads((home / 'result.json').read_text())['config']['linear']
  assert stored['norm'] and stored['base_lr'] == [0.01]


@pytest.mark.slow
def test_no_probe_sees_another(run, probed, tmp_path):
  """Alone, with the same protocol, a tap gets the same classifier."""
  home, _ = probed
  rows = {row['tap']: row for row in result_of(home)['rows']}
  stored = json.loads((home / 'result.json').read_text())['config']['linear']
  same = [f'--linear.{name}={stored[name]}' for name in (
    'schedule', 'lr_update', 'weight_decay', 'kernel_init', 'norm', 'nesterov',
  )]  # fmt: skip
  same += ['--linear.base_lr=(0.01,)', f'--linear.decay_at={tuple(stored["decay_at"])}']
  assert cli.run(['linear', str(run), f'--workdir={tmp_path}', *SHORT, *same]) == 0
  assert result_of(tmp_path)['top1'] == rows['embedding']['linear_top1']
  kernels = [
    checkpoint.restore_subtrees(checkpoint.checkpoint_directory(folder), [('params', 'head')])[
      'params', 'head'
    ][tap]['kernel']
    for folder, tap in ((home, 'embedding'), (tmp_path, 'features'))
  ]
  np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-6)


def test_hypersphere_and_collapse_of_h_z_and_p(run, tmp_path, capsys):
  for task in ('hypersphere', 'collapse'):
    assert cli.run([task, str(run), f'--workdir={tmp_path}/{task}']) == 0
  rows = result_of(tmp_path / 'hypersphere')['rows']
  assert [row['tap'] for row in rows] == ['embedding', 'projection', 'prediction']
  for row in rows:
    assert 0 < row['alignment'] < 4 and -8 < row['uniformity'] < 0 > row['uniformity_clean']
  found = result_of(tmp_path / 'collapse')
  assert found['rows'][0]['dimensions'] == 128 and len(found['rows'][0]['spectrum']) == 24
  assert 'collapsed below 0.05' in found['verdict'] and found['verdict'] in capsys.readouterr().out
  assert (tmp_path / 'collapse' / 'spectrum.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['hypersphere', '--hypersphere.t=-1.0'], 't=-1.0 must be above 0'),
    (['collapse', '--split=validation'], "unknown split 'validation'"),
    (['layers', "--taps=('stem1',)"], "did you mean 'stem'"),
    (['layers', '--probe=linea'], "unknown probe 'linea': choose one of knn, linear"),
    (['layers', '--probe=linear', '--layers.pool=min'], "'min'"),
    (['knn', '--tap=hidden'], 'has no such output; taps: stem, stage1'),
  ],
)
def test_mistakes_are_one_sentence(run, tmp_path, capsys, arguments, sentence):
  task, *more = arguments
  assert cli.run([task, str(run), f'--workdir={tmp_path}', *more]) == 2
  assert sentence in capsys.readouterr().err
  assert not (tmp_path / 'result.json').exists()


def test_features_of_another_tap_lie_in_a_folder_of_their_own(run, tmp_path, npz):
  assert cli.run(['embed', str(run), '--tap=predictor/hidden1']) == 0
  (folder,) = (run / 'embeddings').iterdir()
  assert folder.name == 'npz-train-predictor-hidden1'
  with np.load(folder / 'part-00000.npz') as part:
    assert part['features'].shape == (80, 24)
  assert cli.run(['knn', str(run), '--tap=projection']) == 0
  assert (run / 'evals' / 'knn-online-3-projection' / 'result.json').exists()


def test_they_stand_in_the_report_and_in_the_comparison(run, tmp_path, capsys):
  for task in ('layers', 'collapse'):
    assert cli.run([task, str(run)]) == 0
  result = {'byol': {'knn': {'top1': 0.5}, 'linear': {'top1': 0.625}}}
  (run / 'results.json').write_text(json.dumps({'result': result}))
  tables = facts.results(run)
  assert tables['Layer by layer, online network, step 3'][5]['tap'] == 'projector/hidden1'
  assert tables['Collapse, online network, step 3'][0]['dimensions'] == '128'
  capsys.readouterr()
  assert cli.run(['compare', str(run), str(run), '--out', str(tmp_path)]) == 0
  shown = capsys.readouterr().out
  assert 'Layer by layer' in shown and 'Alignment' not in shown
  assert '## Collapse' in (tmp_path / 'table.md').read_text()


# A task's arguments. The first two and `embed`, which writes another kind of file, are all ways
# in which features are made; the rest are slow for a test that is run often.
_EVERY = {
  'knn': [],
  'hypersphere': [],
  'collapse': [],
  'layers': [],
  'logistic': ['--logistic.lambdas=(1.0,)'],
  'few-labels': ['--few_labels.shots=(3,)', '--few_labels.draws=2'],
  'anomaly': [],
}
_QUICK = ('knn', 'hypersphere')


def evaluate_all(run, folder, batch_size, tasks=tuple(_EVERY)):
  for task in tasks:
    where = [f'--workdir={folder}/{task}', f'--batch_size={batch_size}']
    assert cli.run([task, str(run), *where, *_EVERY[task]]) == 0
  where = [f'--workdir={folder}/embed', f'--batch_size={batch_size}', '--tap=projection']
  assert cli.run(['embed', str(run), *where]) == 0


def assert_equal_results(one, other, tasks=tuple(_EVERY)):
  for task in tasks:
    a, b = (jax.tree.leaves_with_path(result_of(folder / task)) for folder in (one, other))
    for (path, x), (_, y) in zip(a, b, strict=True):
      name = f'{task}{jax.tree_util.keystr(path)}'
      if isinstance(x, str) and task == 'collapse':
        continue  # A sentence with rounded numbers.
      # Accuracies and counts are equal, other numbers up to float32.
      assert x == (pytest.approx(y, rel=1e-4, abs=1e-5) if isinstance(x, float) else y), name
  a, b = (np.load(folder / 'embed' / 'part-00000.npz') for folder in (one, other))
  np.testing.assert_array_equal(a['index'], b['index'])
  np.testing.assert_allclose(a['features'], b['features'], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_neither_the_batch_nor_its_padding_changes_a_result(run, tmp_path):
  # 80 and 24 images: 8 divides both, 52 neither, on four devices.
  for batch_size in (8, 52):
    evaluate_all(run, tmp_path / str(batch_size), batch_size, _QUICK)
  assert_equal_results(tmp_path / '8', tmp_path / '52', _QUICK)


@pytest.mark.slow
def test_neither_the_batch_nor_the_number_of_devices_changes_any_result(run, tmp_path):
  evaluate_all(run, tmp_path / 'four', 8)
  flags = [f for f in os.environ.get('XLA_FLAGS', '').split() if 'device_count' not in f]
  flags.append('--xla_force_host_platform_device_count=1')
  script = (
    'import sys, pathlib; from tests.tasks import test_taps as t; '
    't.evaluate_all(sys.argv[1], pathlib.Path(sys.argv[2]), 7)'
  )
  environment = os.environ | {'XLA_FLAGS': ' '.join(flags), 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-c', script, str(run), str(tmp_path / 'one')]
  subprocess.run(command, check=True, cwd=ROOT, env=environment)
  assert_equal_results(tmp_path / 'four', tmp_path / 'one')


def test_a_run_of_another_librarys_weights_has_no_views(untrained, tmp_path, capsys):
  record = json.loads((untrained / 'config.json').read_text())
  copy = tmp_path / 'theirs'
  copy.mkdir()
  (copy / 'checkpoints').symlink_to(untrained / 'checkpoints')
  for name in ('views', 'method', 'train'):
    del record['config'][name]
  (copy / 'config.json').write_text(json.dumps(record))
  assert load.load_taps(str(copy), 'online')[1][-1] == EMBEDDING
  assert cli.run(['hypersphere', str(copy)]) == 2
  assert 'has no views' in capsys.readouterr().err
