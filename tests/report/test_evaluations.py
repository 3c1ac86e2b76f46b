"""Later evaluations of a run as tables: from results as the tasks write them."""

import json

from byoljax.report import by_tap, compare, evaluations


def write(run, name, result, step=40, **config):
  folder = run / 'evals' / name
  folder.mkdir(parents=True)
  text = {'result': result, 'config': config, 'checkpoint': f'runs/x/checkpoints/{step}'}
  (folder / 'result.json').write_text(json.dumps(text))


def some(run, online=0.5):
  write(run, 'linear', {'top1': 0.25}, task='linear', network='online',
        linear={'protocol': 'simclr'}, data={'name': 'cifar10'})  # fmt: skip
  write(run, 'anomaly', {'auroc': 0.75}, task='anomaly', network='target')
  each = {'train_examples': 1000, 'base_lr': 0.1, 'length': '30 epochs'}
  write(run, 'finetune', {'online': {**each, 'top1': online}, 'random': {**each, 'top1': 0.25}},
        task='finetune', labels='10 %', finetune={'protocol': 'small'})  # fmt: skip
  write(run, 'few', {'rows': [{'labels': '1 %', 'examples': 80, 'top1': 0.5, 'top1_sd': 0.01}]},
        task='few_labels', network='online')  # fmt: skip
  rows = [
    {'data set': 'dtd', 'metric': 'top-1', 'knn, online': 0.125},
    {'data set': 'rooms', 'metric': 'rms', 'depth, online': 0.51239, 'depth, random': None},
  ]
  write(run, 'transfer', {'rows': rows}, task='transfer')  # fmt: skip
  (run / 'evals' / 'broken').mkdir()
  (run / 'evals' / 'broken' / 'result.json').write_text('{')


def test_tables(tmp_path):
  assert evaluations.tables(tmp_path) == {}
  some(tmp_path)
  found = evaluations.tables(tmp_path)
  by_task = {row['evaluation']: row for row in found['Later evaluations']}
  linear, anomaly = by_task['linear'], by_task['anomaly']
  assert (linear['result'], linear['protocol'], linear['on']) == ('25.0%', 'simclr', 'cifar10')
  assert (anomaly['result'], anomaly['metric'], anomaly['step']) == ('0.750', 'mean AUROC', '40')
  tuned = found['Fine-tuning, beside training from scratch']
  assert [(row['start'], row['result'], row['images']) for row in tuned] == [
    ('online network', '50.0%', '1,000'), ('from scratch', '25.0%', '1,000'),
  ]  # fmt: skip
  assert found['Few labels, frozen features'][0]['top-1'] == '50.0% ± 1.0%'
  assert found['Transfer'] == [
    {'data set': 'dtd', 'metric': 'top-1', 'knn, online': '12.5%'},
    {'data set': 'rooms', 'metric': 'rms (lower is better)', 'depth, online': '0.5124'},
  ]


def test_one_odd_result_does_not_hide_the_others(tmp_path):
  some(tmp_path)
  found = evaluations.tables(tmp_path), evaluations.finetuned(tmp_path), by_tap.tables(tmp_path)
  for number, (task, result) in enumerate(
    (
      ('finetune', {'online': {'top1': 0.5}}),
      ('finetune', {'online': None}),
      ('segment', {'rows': []}),
      ('robustness', {'clean': {'top1': 1.0}, 'rows': [], 'test_examples': 1}),
      ('knn', {'top1': 'good'}),
      ('collapse', {'rows': [{'std': 'wide'}]}),
      ('layers', None),
    )
  ):
    write(tmp_path, f'odd{number}', result, task=task)
  write(tmp_path, 'odd', {'top1': 0.5}, task='knn', data='cifar10')
  assert found == (
    evaluations.tables(tmp_path), evaluations.finetuned(tmp_path), by_tap.tables(tmp_path),
  )  # fmt: skip
  assert by_tap.newest(tmp_path) == {}


def test_layers_by_knn_and_by_a_linear_probe_share_rows(tmp_path):
  fields = {'task': 'layers', 'network': 'online'}
  rows = [{'tap': 'stem', 'knn_top1': 0.2}, {'tap': 'stage1', 'knn_top1': 0.3}]
  write(tmp_path, 'by_knn', {'rows': rows}, 40, **fields, probe='knn')
  rows = [{'tap': 'stage1', 'linear_top1': 0.4}, {'tap': 'stage2', 'linear_top1': 0.5}]
  write(tmp_path, 'by_linear', {'rows': rows}, 40, **fields, probe='linear')
  assert by_tap.newest(tmp_path)['layers'] == [
    {'tap': 'stem', 'knn_top1': 0.2},
    {'tap': 'stage1', 'knn_top1': 0.3, 'linear_top1': 0.4},
    {'tap': 'stage2', 'linear_top1': 0.5},
  ]


def test_layers_of_other_data_stand_apart(tmp_path):
  """They are in tables of their own, and not what runs are compared by."""

  def layers(name, top1, step=40, **config):
    rows = [{'tap': 'embedding', 'knn_top1': top1}]
    write(tmp_path, name, {'rows': rows}, step, task='layers', network='online', **config)
    return rows

  layers('early', 0.2, step=9)
  own = layers('own', 0.3)
  layers('named', 0.9, data={'name': 'cifar10', 'dir': ''})
  for place, kind in (('photos', 'folder'), ('more', 'shards')):
    layers(place, 0.9, step=41, data={'name': kind, 'dir': f'my/{place}'})
  layers('photos of others', 0.9, step=41, data={'name': 'folder', 'dir': 'your/photos'})
  layers('moved', 0.9, step=41, data={'name': '', 'dir': 'my/other'})
  layers('larger', 0.9, step=41, image_size=64)
  layers('a classifier', 0.9, step='classifier')
  assert by_tap.newest(tmp_path) == {'layers': own}
  online = 'Layer by layer, online network, step'
  assert set(by_tap.tables(tmp_path)) == {
    f'{online} 9', f'{online} 40', f'{online} 40, on cifar10', f'{online} 41, on photos (folder)',
    f'{online} 41, on more (shards)', f'{online} 41, on other', f'{online} classifier',
    f'{online} 41, on the same data, 64 px', f'{online} 41, on photos (folder) (your/photos)',
  }  # fmt: skip


def test_tables_of_masks_and_depth(tmp_path):
  row = {'start': 'random', 'mode': 'frozen', 'train_examples': 500, 'mean_iou': 0.25,
         'pixel_accuracy': 0.5}  # fmt: skip
  write(tmp_path, 'segment', {'rows': [row]}, task='segment', segment={'protocol': 'small'})
  errors = {
    'rms': 0.125,
    'rel': 0.25,
    'within_1.25': 0.5,
    'within_1.25^2': 0.75,
    'within_1.25^3': 1,
  }
  row = {'start': 'online', 'mode': 'finetuned', 'train_examples': 8000, **errors}
  write(tmp_path, 'depth', {'rows': [row]}, task='depth', depth={'protocol': 'byol'},
        data={'name': 'sprites'})  # fmt: skip
  found = evaluations.tables(tmp_path)
  assert found['Segmentation, frozen and fine-tuned'] == [
    {'on': 'the same data', 'images': '500', 'start': 'from scratch', 'encoder': 'frozen',
     'mean IoU': '25.0%', 'pixel accuracy': '50.0%', 'protocol': 'small'}
  ]  # fmt: skip
  (depth,) = found['Depth, frozen and fine-tuned']
  assert (depth['rms'], depth['< 1.25'], depth['images']) == ('0.125', '50.0%', '8,000')


def test_fine_tuning_in_the_comparison(tmp_path):
  groups = {'byol': []}
  for seed, score in enumerate((0.5, 0.7)):
    some(tmp_path / str(seed), score)
    finetuned = evaluations.finetuned(tmp_path / str(seed))
    groups['byol'].append(compare.Run(str(seed), {}, {}, [], {}, finetuned))
  text = compare.finetune_table(groups, 'ascii')
  assert '60.0 +- 14.1' in text and '25.0 +- 0.0' in text and 'from scratch' in text
  assert compare.finetune_table({'byol': []}) == ''


def test_fine_tuning_on_other_data_by_other_protocols_or_from_other_steps(tmp_path):
  def tuned(folder, top1, step=40, protocol='small', seed=0, **data):
    write(tmp_path, folder, {'online': {'top1': top1}}, step, task='finetune', labels='10 %',
          split_seed=seed, finetune={'protocol': protocol}, data=data)  # fmt: skip

  tuned('early', 0.1, step=9)
  tuned('late', 0.3)
  tuned('late, other images', 0.5, seed=1)
  tuned('mae', 0.7, protocol='mae')
  tuned('photos', 0.9, name='folder', dir='my/photos')
  tuned('more photos', 0.2, name='folder', dir='my/more')
  tuned('moved', 0.4, dir='my/other')
  groups = {'byol': [compare.Run('x', {}, {}, [], {}, evaluations.finetuned(tmp_path))]}
  lines = compare.finetune_table(groups, 'ascii').splitlines()[2:]
  assert sorted(' '.join(line.split()) for line in lines) == [
    'byol 10 % more (folder) small online network 20.0 1',
    'byol 10 % other small online network 40.0 1',
    'byol 10 % photos (folder) small online network 90.0 1',
    'byol 10 % the same data mae online network 70.0 1',
    'byol 10 % the same data small online network 40.0 +- 14.1 2',
  ]


def test_fine_tuning_by_other_settings_is_no_other_seed(tmp_path):
  for folder, top1, settings in (
    ('long', 0.8, {'length': '50 epochs', 'seed': 0}),
    ('long again', 0.6, {'length': '50 epochs', 'seed': 1}),
    ('short', 0.2, {'length': '1 epochs', 'seed': 0}),
  ):
    write(tmp_path, folder, {'online': {'top1': top1}}, task='finetune', labels='10 %',
          finetune={'protocol': 'small', **settings})  # fmt: skip
  groups = {'byol': [compare.Run('x', {}, {}, [], {}, evaluations.finetuned(tmp_path))]}
  lines = compare.finetune_table(groups, 'ascii').splitlines()[2:]
  assert [' '.join(line.split()) for line in lines] == [
    'byol 10 % the same data small (length=50 epochs) online network 70.0 +- 14.1 2',
    'byol 10 % the same data small (length=1 epochs) online network 20.0 1',
  ]


def test_fine_tuning_of_older_versions_lacks_no_setting(tmp_path):
  for folder, top1, later in (('older', 0.8, {}), ('newer', 0.6, {'crops': 1, 'freeze': ''})):
    write(tmp_path, folder, {'online': {'top1': top1}}, task='finetune', labels='10 %',
          split_seed=len(later), finetune={'protocol': 'small', **later})  # fmt: skip
  groups = {'byol': [compare.Run('x', {}, {}, [], {}, evaluations.finetuned(tmp_path))]}
  (line,) = compare.finetune_table(groups, 'ascii').splitlines()[2:]
  assert ' '.join(line.split()) == 'byol 10 % the same data small online network 70.0 +- 14.1 2'


def test_fine_tuning_on_several_labels_an_image_is_compared_by_its_own_score(tmp_path):
  several = {'map11': 0.25, 'map': 0.3}
  for folder, result in (('one', {'top1': 0.5}), ('voc', several)):
    write(tmp_path, folder, {'online': result}, task='finetune', labels='10 %', split_seed=0,
          finetune={'protocol': 'small'}, data={'name': folder, 'dir': ''})  # fmt: skip
  groups = {'byol': [compare.Run('x', {}, {}, [], {}, evaluations.finetuned(tmp_path))]}
  lines = [line.split() for line in compare.finetune_table(groups, 'ascii').splitlines()]
  assert lines[0][-4:] == ['top-1', '11-point', 'mAP', 'results']
  assert sorted(line[-3:] for line in lines[2:]) == [['-', '25.0', '1'], ['50.0', '-', '1']]
