"""The report: one page that needs nothing else, opened in a browser where there is one."""

from html.parser import HTMLParser
import io
import json
import os
import re
import shutil
import sys
import types

import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.sources import arrays
from byoljax.evals import knn
from byoljax.report import charts, curves, facts, fonts, page, pictures, samples

NAMES = ('cat', '<script>alert(1)</script>', 'a & b')
VOID = {'meta', 'link', 'img', 'line', 'circle', 'polyline', 'br', 'input'}


class Reader(HTMLParser):
  """Checks that elements close, and gathers what is there."""

  def __init__(self):
    super().__init__()
    self.open, self.sources, self.scripts, self.ids, self.links = [], [], 0, set(), []

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.sources += [attributes[name] for name in ('src', 'href') if name in attributes]
    self.links += [attributes['href'][1:]] if attributes.get('href', '').startswith('#') else []
    self.scripts += tag == 'script'
    self.ids |= {attributes['id']} if 'id' in attributes else set()
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    pass

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def read(text):
  reader = Reader()
  reader.feed(text)
  assert not reader.open
  assert set(reader.links) <= reader.ids
  assert all(source.startswith(('data:', '#')) for source in reader.sources)
  assert reader.scripts == 1
  assert 'http' not in text.replace('http://www.w3.org/2000/svg', '')
  return reader


def images(*shape):
  return np.random.default_rng(0).integers(0, 256, (*shape, 8, 8, 3), dtype=np.uint8)


def example(**changes):
  rng = np.random.default_rng(1)
  shown = page.Page(
    title='byol on <shapes>',
    facts={'method': 'byol & more'},
    results={'final': [{'encoder': 'byol', 'k-NN': '50 %'}, {'encoder': 'random'}]},
    protocol={'evals.knn.k': (1, 2)},
    changes=["train.batch_size: 64 -> '<b>'"],
    recipe={'seed': 0},
    charts=charts.line_charts([{'step': i, 'loss': 1.0 / (i + 1), 'epoch': i} for i in range(9)]),
    pictures={},
    gallery=page.Gallery(
      images(2), np.array([0, -1]), images(2, 4), np.array([[0, 1, -1, 2]] * 2), rng.random((2, 4))
    ),
    map=page.Map(
      {'t-SNE': rng.normal(size=(7, 2)), 'PCA': np.zeros((7, 2))}, np.arange(7) % 4 - 1, images(7)
    ),
    confusion=np.array([[5, 1, 0], [0, 0, 0], [2, 2, 6]]),
    class_names=NAMES,
    notes={'Classes': 'of 10 < 20 images'},
  )
  return shown._replace(**changes)


def test_page_is_well_formed_and_alone():
  text = page.render(example())
  reader = read(text)
  assert {'results', 'training', 'nearest-neighbors', 'classes', 'recipe'} <= reader.ids
  assert '<script>alert' not in text and '&lt;script&gt;alert' in text
  assert '✓ cat' in text and 'class="tile wrong"' in text and '&lt;b&gt;' in text
  # 6 of 10 right; a class without images has no bar.
  assert '83 %' in text and '60 %' in text and text.count('class="bar"') == 2


def test_parts_that_are_not_there_are_left_out():
  nothing = {'results': {}, 'charts': [], 'gallery': None, 'map': None, 'confusion': None}
  reader = read(page.render(example(**nothing)))
  assert reader.ids == {'recipe'}


def test_names_of_folders_are_text_alone():
  png = io.BytesIO()
  Image.fromarray(np.zeros((2, 2), np.uint8)).save(png, 'PNG')
  heading = 'Predictions: robust"><img\tsrc=x onerror=alert(1)>'
  text = page.render(example(pictures={heading: png.getvalue()}))
  assert 'predictions-robust-img-src-x-onerror-alert-1' in read(text).ids and '<img\t' not in text


def test_what_differs_from_the_preset_is_said_where_it_is_known(tmp_path):
  said = [page.render(example(changes=lines)) for lines in (['seed: 0 -> 1'], [], None)]
  assert ['Changes from its preset' in text for text in said] == [True, False, False]
  assert ['Identical to its preset' in text for text in said] == [False, True, False]
  recipe = config_lib.recipes_directory() / 'byol.py'
  own = tmp_path / 'byol.py'
  own.write_text('raise SystemExit("what was fetched is run")')
  config = config_lib.load(f'{recipe}:smoke', [('seed', '3')])
  for name, lines in (
    (f'{recipe}:smoke', ['seed: 0 -> 3']),
    (str(own), None),
    (f'{recipe}:nothing', None),
    (f'{recipe.parent}/gone.py', None),
    ('', None),
  ):
    (tmp_path / 'config.json').write_text(json.dumps({'recipe': name}))
    assert facts.changes(tmp_path, config) == lines, name
  config = config_lib.load(f'{recipe}:npz', [('encoder.dtype', 'float32')])
  (tmp_path / 'config.json').write_text(json.dumps({'recipe': f'{recipe}:npz'}))
  assert facts.changes(tmp_path, config) == [], 'the devices have chosen'


def test_many_classes_become_a_list():
  counts = np.eye(100, dtype=int) * 5
  counts[7, 9] = 3
  text = page.render(example(confusion=counts, class_names=[f'n{i}' for i in range(100)]))
  read(text)
  assert 'class="matrix"' not in text and re.search(r'<td>n7</td><td>n9</td><td>3</td>', text)


class TestCharts:
  def test_values_and_scale(self):
    rows = [{'step': step, 'loss': 2.0 * step, 'epoch': 0} for step in (0, 50, 100)]
    (figure,) = charts.line_charts(rows)
    data = json.loads(re.search(r'data-lines="([^"]*)"', figure)[1].replace('&quot;', '"'))
    assert data[0]['y'] == [0, 100, 200] and data[0]['x'] == [0, 50, 100]
    points = re.search(r'points="([^"]*)"', figure)[1].split()
    x, y = np.array([point.split(',') for point in points], float).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=0.11)
    assert y[0] > y[-1], 'up is more'

  @pytest.mark.parametrize('values', [[1.0] * 5, [0.0] * 3, [5.0], [1e-9, 2e-9], [-3.0, 4e6]])
  def test_any_values_can_be_drawn(self, values):
    rows = [{'step': i, 'loss': value, 'epoch': i} for i, value in enumerate(values)]
    (figure,) = charts.line_charts(rows)
    assert 'nan' not in figure and 'inf' not in figure

  def test_long_records_are_thinned(self):
    rows = [{'step': i, 'loss': float(i % 7), 'epoch': i} for i in range(20000)]
    (figure,) = charts.line_charts(rows)
    assert len(figure) < 40000

  def test_nothing_to_draw(self):
    assert charts.line_charts([]) == []
    assert charts.line_charts([{'step': 1, 'epoch': 1, 'loss': float('nan')}]) == []


def test_neighbors_and_votes_are_those_of_the_evaluation():
  rng = np.random.default_rng(0)
  bank, queries = rng.normal(size=(300, 5)), rng.normal(size=(41, 5))
  labels, truth = rng.integers(0, 4, 300), rng.integers(0, 4, 41)
  similarities, rows = knn.nearest(bank, queries, 200, query_block=16)
  cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
    bank / np.linalg.norm(bank, axis=1, keepdims=True)
  ).T
  np.testing.assert_array_equal(rows[:, :50], np.argsort(-cosine, axis=1)[:, :50])
  np.testing.assert_allclose(similarities, -np.sort(-cosine, axis=1)[:, :200], atol=1e-6)
  predicted = knn.vote(similarities, labels[rows], knn.HEADLINE_TEMPERATURE)
  headline = knn.knn_accuracy(bank, labels, queries, truth, num_classes=4)['top1']
  assert np.mean(predicted == truth) == pytest.approx(headline)


def test_the_map_of_many_images_has_every_class(monkeypatch):
  """Sorted by class, as folders are: the first thousand would be those of four of ten."""
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  labels = np.repeat(np.arange(10), 250)
  pixels = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (2500, 2, 2, 3))
  features = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
  source = arrays.from_arrays(pixels, labels)
  shown = samples.layouts(samples.Sample(source, np.arange(2500), features, labels, 2))
  assert len(shown.labels) == len(shown.layouts['PCA']) == len(shown.names) == samples.MOST_POINTS
  # A hundred of each are expected, with a standard deviation of 7.
  assert np.bincount(shown.labels, minlength=10).min() > 60
  np.testing.assert_array_equal(shown.images[:, 0, 0, 0], shown.labels)


def test_confusion_is_bounded_by_the_images_and_not_by_the_labels():
  """Labels up to 63,000 would make a matrix of 30 GB."""
  rng = np.random.default_rng(0)
  similarities = -np.sort(-rng.uniform(size=(9, 5)).astype(np.float32), axis=1)
  rows, few = rng.integers(0, 20, (9, 5)), rng.integers(0, 3, 29)

  def sample(labels):
    return samples.Sample(None, np.arange(len(labels)), None, labels, 12)

  def found(number, count):
    labels = number[few]
    return samples.confusion(sample(labels[20:]), sample(labels[:20]), similarities, rows, count)

  counts, classes = found(np.arange(3), 3)
  assert counts.sum() == 9 and list(classes) == [0, 1, 2]
  sparse, classes = found(np.array([7, 500, 63_000]), 63_001)
  np.testing.assert_array_equal(sparse, counts)
  assert list(classes) == [7, 500, 63_000]
  assert len(found(np.arange(3), 5)[0]) == 5, 'few classes are all shown'


def test_pictures(tmp_path):
  shown = example()
  pictures.gallery(tmp_path / 'gallery.png', shown.gallery, NAMES)
  names = ('_cat', r'a$\frac$', 'b')  # Neither hidden, nor a formula.
  pictures.scatter(tmp_path / 'map.png', shown.map, names)
  pictures.confusion(tmp_path / 'confusion.png', shown.confusion, names)
  assert [pictures._class(label, names) for label in (0, 1)] == [' _cat', r'a\$\frac\$']
  kernel = np.zeros((3, 3, 3, 17), np.float32)
  kernel[0, 0, :, 0] = 1
  params = {'b': {'kernel': np.zeros((3, 3, 8, 4))}, 'a_conv': {'kernel': kernel}}
  assert pictures.first_kernel(params).shape == (3, 3, 3, 17)
  assert pictures.first_kernel({'dense': {'kernel': np.zeros((4, 4))}}) is None
  pictures.filters(tmp_path / 'filters.png', kernel)
  for path in tmp_path.iterdir():
    with Image.open(path) as picture:
      assert min(picture.size) > 50, path
  with Image.open(tmp_path / 'filters.png') as picture:
    assert picture.getpixel((8, 8)) == (255, 255, 255) and picture.getpixel((40, 40)) == (0, 0, 0)


@pytest.mark.parametrize('count', [3, 27])
def test_names_of_any_length_and_script_fit_into_pictures(tmp_path, count):
  """Matplotlib warns of a layout without space and of unknown letters: an error in a test."""
  names = [f'class {i} of\na long\tname, {"W" * i} 日本' for i in range(count)]
  labels = np.repeat(np.arange(count), 2)
  plane = page.Map({'PCA': np.arange(4 * count).reshape(-1, 2)}, labels, images(2 * count))
  pictures.scatter(tmp_path / 'map.png', plane, names)
  pictures.confusion(tmp_path / 'confusion.png', np.eye(count, dtype=int), names)
  assert pictures._class(0, names) == 'class 0 of a long name, 日本'
  for label in range(count):
    assert fonts.sans(10).getlength(pictures._class(label, names)) <= 220


@pytest.fixture(scope='module')
def written(untrained, tmp_path_factory):
  """A copy of a run with a record, and its report."""
  run = tmp_path_factory.mktemp('report') / 'run'
  shutil.copytree(untrained, run)
  rows = [
    {'step': i, 'epoch': i / 5, 'loss': 3.0 - i / 10, 'knn/top1': 0.5, 'time/elapsed_s': 60 * i}
    for i in range(1, 6)
  ]
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  result = {'byol': {'knn': {'top1': 0.5}, 'linear': {'top1': 0.625}}}
  (run / 'results.json').write_text(json.dumps({'result': result}))
  (run / 'tensorboard').mkdir()
  assert cli.run(['report', str(run)]) == 0
  return run


def test_a_run_becomes_a_page(written):
  text = (written / 'report.html').read_text()
  reader = read(text)
  assert {'results', 'training', 'nearest-neighbors', 'map-of-the-embeddings', 'classes', 'recipe',
          'first-layer'} <= reader.ids  # fmt: skip
  assert '<dd>step 0</dd>' in text and ' min</dd>' not in text, 'nothing after its checkpoint'
  assert '62.5%' in text and '24 test images against 80 training images' in text
  # The fixture changed these two fields of the recipe.
  assert 'evals.image_size: 32 -&gt; 12' in text and '<code>train.length' in text
  files = {path.name for path in (written / 'report').iterdir()}
  assert files == {'neighbors.png', 'map.png', 'filters.png', 'confusion.png'}
  (events,) = (written / 'tensorboard').iterdir()
  assert b'report/neighbors' in events.read_bytes()


def test_a_query_is_not_its_own_neighbor_wherever_it_stands():
  similarities = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
  rows = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
  own = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
  kept, left = samples.without_self(similarities, rows, own)
  np.testing.assert_array_equal(left, [[1, 2], [3, 5], [6, 7]])
  np.testing.assert_array_equal(kept, [[0.8, 0.7], [0.9, 0.7], [0.9, 0.8]])


def test_the_facts_are_of_the_checkpoint_and_of_the_images_trained_on(tmp_path):
  """Rows at steps 4 and 8 of 500 an epoch, a checkpoint of step 6; 105,000 images, 5,000 shown."""
  config = config_lib.load(
    f'{config_lib.recipes_directory()}/byol.py:smoke', [('data.name', 'stl10')]
  )
  encoder = types.SimpleNamespace(params={'kernel': np.zeros((3, 4))}, fields={})
  source = types.SimpleNamespace(size=5000, name='stl10:train')
  record = [
    {'step': step, 'epoch': step / 500, 'time/elapsed_s': 60 * step, 'time/img_per_s_run': step}
    for step in (4, 8)
  ]

  def summary():
    return facts.summary(tmp_path, config, encoder, source, record, tmp_path / '6')

  assert summary()['images'] == '5,000 of stl10:train', 'of imported weights'
  (tmp_path / 'config.json').write_text(json.dumps({'facts': {'num_examples': 105_000}}))
  said = summary()
  assert (said['images'], said['length']) == ('105,000 of stl10', 'step 6, epoch 0.012')
  assert (said['training'], said['speed']) == ('4.0 min', '4 images/s')


def verdict(run, rows, tested=1000):
  names = ('byol', 'random initialization', 'raw pixels')
  result = {
    name: {
      'knn': {'top1': knn, 'queries': tested},
      'linear': {'top1': linear, 'test_examples': tested},
    }
    for name, (knn, linear) in zip(names, rows, strict=False)
  }
  (run / 'results.json').write_text(json.dumps({'result': result}))
  return facts.verdict(run)


def test_the_verdict(tmp_path):
  good = [(0.6, 0.7), (0.2, 0.2), (0.3, 0.3)]
  said, fine = verdict(tmp_path, good)
  assert fine and said.startswith('This encoder clearly beats') and '30.0% of raw pixels' in said
  said, fine = verdict(tmp_path, [(0.6, 0.7), (0.2, 0.2), (0.61, 0.3)])
  assert not fine and 'does not beat its baselines' in said
  assert 'k-NN 60.0% against 61.0% of raw pixels' in said and 'random' not in said
  # 5 points of 60 test images are within the noise: two standard errors are 18 points.
  said, fine = verdict(tmp_path, [(0.62, 0.7), (0.57, 0.2)], tested=60)
  assert not fine and 'not clearly for so few test images: k-NN 62.0% against 57.0%' in said
  assert verdict(tmp_path, [(0.62, 0.7), (0.57, 0.2)], tested=6000)[1]
  assert verdict(tmp_path, good[:1]) == ('', True)


def test_naming_the_largest_class_has_to_be_beaten(tmp_path):
  """Images of three classes, 150 of one, of which every encoder finds nothing but that one."""
  same = {'top1': 150 / 155, 'mean_per_class': 1 / 3, 'majority': 150 / 155}
  each = {'knn': {**same, 'queries': 155}, 'linear': {**same, 'test_examples': 155}}
  result = {'byol': each, 'random initialization': each}
  (tmp_path / 'results.json').write_text(json.dumps({'result': result}))
  said, fine = facts.verdict(tmp_path)
  assert 'k-NN 96.8% against 96.8% of always naming the largest class' in said and not fine
  (rows,) = facts.results(tmp_path).values()
  assert rows[0]['k-NN balanced'] == rows[1]['linear balanced'] == '33.3%'
  assert rows[-1] == {
    'encoder': 'the largest class', 'k-NN top-1': '96.8%', 'linear top-1': '96.8%'
  }  # fmt: skip


def test_a_verdict_is_shown_as_text():
  shown = page.render(example(verdict='It <learned>.', good=False))
  assert '<p class="verdict bad">It &lt;learned&gt;.</p>' in shown


def test_similarities_tell_images_apart_and_files_are_named():
  """Features with a large common part: their own cosines are all above 0.99."""
  rng = np.random.default_rng(0)
  source = arrays.from_arrays(np.zeros((30, 12, 12, 3), np.uint8), np.arange(30) % 3, name='x/a.b')
  features = (9.0 + 0.1 * rng.normal(size=(30, 8))).astype(np.float32)
  found = samples.Sample(source, np.arange(30), features, source.labels, 12)
  near = np.array([np.roll(np.arange(30), -i)[1:9] for i in range(30)])
  shown = samples.gallery(found, found, near)
  own = features - features.mean(0)
  own /= np.linalg.norm(own, axis=1, keepdims=True)
  assert shown.cosines.min() < -0.2 and shown.cosines.max() < 0.9
  number = int(shown.query_names[0].split('[')[1][:-1])
  np.testing.assert_allclose(shown.cosines[0], own[near[number]] @ own[number], atol=1e-4)
  text = page.render(example(gallery=shown))
  assert f'<small>{shown.neighbor_names[0][0]}</small>' in text


def test_no_tick_is_cut_off_and_references_are_drawn():
  rows = [
    {'step': i, 'lr': 0.00075 * i / 9, 'knn/top1': 0.5, 'grad_norm': 30.0 + 8 * i}
    for i in range(10)
  ]
  known = [
    curves.Reference('Accuracy', *one) for one in (('chance, one of 3', 33.3), ('untrained', 35.0))
  ]
  figures = charts.line_charts(rows, known)
  for figure in figures:
    for x, text in re.findall(r'<text x="([0-9.]+)"[^>]*text-anchor="end">([^<]*)</text>', figure):
      assert float(x) >= 5.5 * len(text), text
  (accuracy,) = [figure for figure in figures if '>Accuracy, %<' in figure]
  assert accuracy.count('class="known"') == 2
  upper, lower = (
    float(re.search(rf'y="([0-9.]+)" text-anchor="end">{name}<', accuracy).group(1))
    for name in ('untrained', 'chance, one of 3')
  )
  assert lower - upper > 10, 'one name covers the other'
  (norm,) = [figure for figure in figures if '>Gradient norm<' in figure]
  assert re.findall(r'text-anchor="end">(\d+)<', norm)[:3] == ['20', '50', '100']


def test_what_curves_are_compared_with(tmp_path):
  assert curves.references(tmp_path) == []
  (tmp_path / 'config.json').write_text(json.dumps({'facts': {'num_classes': 4}, 'config': {}}))
  result = {'random initialization': {'knn': {'top1': 0.3}}}
  (tmp_path / 'results.json').write_text(json.dumps({'result': result}))
  assert [(one.label, one.value) for one in curves.references(tmp_path)] == [
    ('chance, one of 4', 25.0), ('k-NN untrained', pytest.approx(30.0))
  ]  # fmt: skip
  for damaged in (
    '[]', '{"result": null}', '{"result": {"random initialization": {"knn": null}}}',
    '{"result": {"random initialization": {"knn": {"top1": null}}}}', '{"result": 3',
  ):  # fmt: skip
    (tmp_path / 'results.json').write_text(damaged)
    assert [one.label for one in curves.references(tmp_path)] == ['chance, one of 4'], damaged


def test_as_a_module(untrained, monkeypatch, capsys):
  import runpy

  monkeypatch.setattr(sys, 'argv', ['byoljax.report', 'nowhere'])
  with pytest.raises(SystemExit) as stopped:
    runpy.run_module('byoljax.report', run_name='__main__')
  assert stopped.value.code == 2 and "'nowhere' does not exist" in capsys.readouterr().err


def test_images_without_labels(untrained, tmp_path):
  rng = np.random.default_rng(0)
  np.savez(tmp_path / 'bare.npz', x_train=rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8))
  run = tmp_path / 'run'
  shutil.copytree(untrained, run)
  stored = json.loads((run / 'config.json').read_text())
  stored['config']['data']['dir'] = str(tmp_path / 'bare.npz')
  (run / 'config.json').write_text(json.dumps(stored))
  assert cli.run(['report', str(run)]) == 0
  text = (run / 'report.html').read_text()
  reader = read(text)
  assert 'classes' not in reader.ids and 'nearest-neighbors' in reader.ids
  # An image is not its own neighbor.
  assert '1.00</figcaption>' not in text


def test_without_scikit_learn_the_map_has_principal_components(written, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  monkeypatch.setitem(sys.modules, 'sklearn.manifold', None)
  before = (written / 'report.html').read_text()
  assert cli.run(['report', str(written)]) == 0
  text = (written / 'report.html').read_text()
  (written / 'report.html').write_text(before)
  assert 'data-layout="PCA"' in text and 'data-layout="t-SNE"' not in text
  assert 'data-layout="t-SNE"' in before


def test_no_run_is_a_sentence(tmp_path, capsys):
  assert cli.run(['report', str(tmp_path / 'absent')]) == 2
  assert 'does not exist' in capsys.readouterr().err


def browser():
  """A Chromium: of the environment, or on the path."""
  names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
  return os.environ.get('BYOLJAX_BROWSER') or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(browser() is None, reason='no Chromium on PATH or in BYOLJAX_BROWSER')
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('size', [(1280, 900), (390, 844)])
def test_in_a_browser(written, size, scheme):
  """No errors, no network, every image is there, nothing is wider than the window."""
  playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright')
  said, asked = [], []
  with playwright.sync_playwright() as play:
    # One process: the flags under which Chromium runs in containers, too.
    flags = ['--no-sandbox', '--no-zygote', '--single-process', '--disable-gpu']
    with play.chromium.launch(executable_path=browser(), args=flags) as started:
      view = {'width': size[0], 'height': size[1]}
      shown = started.new_page(viewport=view, color_scheme=scheme)
      shown.on('console', lambda message: said.append(message.text))
      shown.on('pageerror', lambda error: said.append(str(error)))
      shown.on('request', lambda request: asked.append(request.url))
      shown.goto((written / 'report.html').as_uri())
      assert shown.evaluate('[...document.images].filter(i => !i.naturalWidth).length') == 0
      assert shown.evaluate('document.images.length') > 50
      assert shown.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0
      assert shown.locator('.map circle').count() == 24
      # Pointing at a dot shows its image; choosing a class hides the others.
      shown.locator('.map circle').first.hover(force=True)
      assert shown.locator('.spot').is_visible()
      shown.locator('[data-class="1"]').click()
      faded = shown.locator('.map circle.faded').count()
      assert 0 < faded < 24
      shown.get_by_role('button', name='PCA').click()
      shown.locator('.chart svg').first.hover()
      assert shown.locator('.chart output').first.inner_text().startswith('step ')
  assert not said
  assert all(url.startswith(('file:', 'data:')) for url in asked)
