"""Few labels in, a classifier out, and its answers about the images that have none.

<workdir>/classifier/       for `byoljax predict`
<workdir>/result.json       cross-validated scores, with their protocol
<workdir>/confusion.csv     which class is taken for which
<workdir>/predictions.csv   every image without a label, with its class
<workdir>/sheet.html        the same to look through
<workdir>/mistakes.html     the labelled images, as they are classified when not trained on
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.devices import hosts
from byoljax.tasks import data as data_lib
from byoljax.tasks import evaluation, predict
from byoljax.tasks.command import Argument, Command
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source, UnreadableLog
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.answers import Trained
  from byoljax.protocols.extraction import EvalData

FINETUNE = 'finetune'


def run(config: Config, invocation: Invocation) -> int:
  """Makes a classifier from labelled images and answers about all others; see the module."""
  from byoljax.encoders import classifier, load
  from byoljax.protocols import classify, folds

  choose('head', config.head, (*classify.HEADS, FINETUNE))
  if not config['from']:
    raise ConfigError('--from is missing: name the run whose encoder to use, such as runs/byol.')
  if not 0 <= config.abstain <= 1:
    raise ConfigError(f'abstain={config.abstain:g} is a probability: give 0 to 1.')
  encoder, pretraining, directory = load.load_encoder(config['from'], config.network, config.tap)
  photos = pathlib.Path(config.data.dir).expanduser()
  name = f'classify-{config.network}-{directory.name}-{photos.resolve().stem}'
  home = pathlib.Path(invocation.workdir or run_dir.evals_dir(directory) / name)
  if photos.is_dir():
    data_lib.require_outside(home, photos)
  train, test, rest = _open(config, home)
  size = config.finetune.batch_size if config.head == FINETUNE else config.batch_size
  image_size = config.image_size or pretraining.evals.image_size
  data = data_lib.eval_data(
    train, test, pretraining, image_size=image_size, batch_size=size, threads=config.data.threads
  )
  folds.require_single(data.train)
  say(
    f'{data.train.size:,} labelled images of {data.train.num_classes} classes, '
    f'{rest.size if rest else 0:,} others; encoder of {directory} ({evaluation.which(config)})\n'
    f'tested on {folds.describe(data)}'
  )
  with lock_workdir(home):
    trained = _train(config, encoder, data, invocation, home)
    _say_scores(trained, data)
    where = evaluation.leave(home, trained, data, config, directory)
    run_dir.write_result(home / 'result.json', trained.result, config, directory)
    say(f'result  {home / "result.json"}')
    if where is None or not hosts.is_first_process():
      return 0
    _show_mistakes(trained, data, home, photos)
    return _answer_rest(config, classifier.load(where), rest, home, len(train.unreadable))


def _open(config: Config, home: pathlib.Path) -> 'tuple[Source, Source | None, Source | None]':
  """Labelled images, test images or None, and the images without a label or None.

  Raises:
    ConfigError: no images or labels, or labels of images that are not there.
  """
  from byoljax.data.sources import datasets, folder, label_table
  from byoljax.data.sources.source import NoSplitError, UnreadableLog

  photos, labels = pathlib.Path(config.data.dir).expanduser(), config.labels
  log = UnreadableLog(home / 'unreadable.txt')
  if photos.suffix != '.npz' and not photos.is_dir():
    raise ConfigError(f"'{config.data.dir}' is neither a folder of images nor an .npz file.")
  with user_errors():
    if labels and pathlib.Path(labels).expanduser().is_file():
      files = folder.every_image(photos)
      known = label_table.matched(photos, files, label_table.read_labels(labels), labels)
      own = [file for file in files if file in known]
      others = [file for file in files if file not in known]
      if len(set(known.values())) < 2:
        raise ConfigError(f"'{labels}' names fewer than two classes: nothing can be told apart.")
      train = _files(photos, own, [known[file] for file in own], log)
      rest = _files(photos, others) if others else None
      return train, None, rest
    if labels and not pathlib.Path(labels).expanduser().is_dir():
      raise ConfigError(f"labels='{labels}' is neither a table of labels nor a folder.")
    where = labels or str(photos)
    kind = 'npz' if where.endswith('.npz') else 'folder'
    train = datasets.load(kind, 'train', data_dir=where, unreadable_log=log.path)
    if train.num_classes < 2:
      raise ConfigError(
        f"'{where}' has no labels: give --labels=labels.csv with a file and its class in each "
        'line, or put every image into a folder of its class, two classes at least.'
      )
    try:
      test = datasets.load(kind, 'test', data_dir=where, unreadable_log=log.path)
    except NoSplitError:
      test = None
    rest = _others(photos, pathlib.Path(where)) if labels else None
    if kind == 'npz':
      train = _labelled(train)
      test = None if test is None or not test.num_classes else _labelled(test)
    return train, test, rest


def _labelled(source: 'Source') -> 'Source':
  """The images that have a label."""
  labels = source.labels
  if labels is None or labels.ndim == 2 or (labels >= 0).all():
    return source
  return source.subset(np.flatnonzero(labels >= 0))


def _others(photos: pathlib.Path, labelled: pathlib.Path) -> 'Source | None':
  """The images of a folder that do not lie in the folder with the labelled ones."""
  from byoljax.data.sources import folder

  inside = labelled.expanduser().resolve()
  files = [
    file
    for file in folder.every_image(photos)
    if not (photos / file).resolve().is_relative_to(inside)
  ]
  return _files(photos, files) if files else None


def _files(
  root: pathlib.Path,
  files: Sequence[str],
  classes: Sequence[str] | None = None,
  log: 'UnreadableLog | None' = None,
) -> 'Source':
  """Files of a folder, with the names of their classes."""
  from byoljax.data.sources import listed

  names = tuple(sorted(set(classes or ())))
  labels = None if classes is None else [names.index(label) for label in classes]
  paths = [root / file for file in files]
  return listed.from_files(paths, labels, name=root.name, class_names=names, unreadable=log)


def _train(
  config: Config,
  encoder: 'Encoder',
  data: 'EvalData',
  invocation: Invocation,
  home: pathlib.Path,
) -> 'Trained':
  from byoljax.protocols import classify, finetune
  from byoljax.train import assemble

  if config.head != FINETUNE:
    return classify.fit(
      encoder, data, classify.ClassifyProtocol(head=config.head, **config.classify.to_dict())
    )
  protocol, logging = (
    finetune.FinetuneProtocol(**config.finetune.to_dict()),
    assemble.logging_of(config),
  )
  finetune.check(data, protocol, logging, encoder)
  with config.unlocked():
    config['from'] = str(pathlib.Path(config['from']).resolve())
  run_dir.open_workdir(home, config, invocation, data.train.name, data.train.fingerprint)
  return finetune.fit(encoder, data, protocol, logging=logging, workdir=home / FINETUNE)


def _say_scores(trained: 'Trained', data: 'EvalData') -> None:
  from byoljax.evals import scores
  from byoljax.protocols import answers
  from byoljax.report import confusion, table

  result = trained.result
  if len(result.get('heads', {})) > 1:
    titles = {'top1': 'top-1', 'mean_per_class': 'balanced', 'majority': 'largest class',
              'ece': 'calibration error'}  # fmt: skip
    rows: list[Mapping[str, Any]] = [
      {'head': head, **{title: each[key] for key, title in titles.items()},
       '': '<- taken' if head == result['head'] else ''}
      for head, each in result['heads'].items()
    ]  # fmt: skip
    formats = dict.fromkeys(titles.values(), '{:.1%}')
    say(table.format_table(rows, ['head', *formats, ''], formats=formats))
  counts, names = answers.confusion(trained), answers.class_names(data)
  say(f'\n{confusion.by_class(counts, names)}\n')
  wrong = confusion.commonest(counts, names)
  if wrong:
    say(f'Most often mistaken: {wrong}')
  say(f'{scores.format_scores(result)}, of {int(counts.sum()):,} images')


def _show_mistakes(
  trained: 'Trained', data: 'EvalData', home: pathlib.Path, photos: pathlib.Path
) -> None:
  """The tested images with what is said of them; left out where some could not be read."""
  from byoljax.evals import calibration
  from byoljax.protocols import answers as answers_lib
  from byoljax.protocols import folds
  from byoljax.report import predictions

  source = data.test
  if data.has_test:
    rows = np.arange(source.size)
  else:
    rows = np.concatenate([test for _, test in folds.rows(data.train)])
  logits, labels = trained.tested
  if len(rows) != len(labels):
    return
  order = np.argsort(rows, kind='stable')
  source = source if data.has_test else source.subset(rows[order])
  chances = calibration.probabilities(logits, trained.result['calibration']['temperature'])
  made = predictions.answers(
    np.arange(len(rows)),
    chances[order],
    answers_lib.class_names(data),
    source.locate,
    size=len(rows),
    reasons={},
    truth=labels[order],
  )
  kind = 'test images' if data.has_test else 'labelled images, cross-validated'
  title = f'{photos.stem}: {len(rows):,} {kind}'
  root = str(photos.resolve())
  predict.write_sheet(
    str(home / 'mistakes.html'), title, made, source, root, data.train.num_classes
  )


def _answer_rest(
  config: Config, made: Any, rest: 'Source | None', home: pathlib.Path, unreadable: int
) -> int:
  """Classifies what has no label; the exit status says whether all could be read."""
  from byoljax.protocols import prediction

  if unreadable:
    say(f'{unreadable:,} labelled images cannot be read: see {home / "unreadable.txt"}')
  status = predict.SOME_UNREADABLE if unreadable else 0
  if rest is None:
    return status
  found = prediction.predict(made, rest, batch_size=config.batch_size, threads=config.data.threads)
  out, sheet = home / 'predictions.csv', home / 'sheet.html'
  answers = predict.write(
    str(out), str(sheet), made, rest, found, config.data.dir, abstain=config.abstain
  )
  return max(status, predict.say(answers, made))


COMMAND = Command(
  'classify',
  'make a classifier from labelled images, and classify the others',
  run,
  (Argument('PHOTOS', 'directory', 'a folder of images, or an .npz file'),),
  task='classify',
  recipe='classify',
  field='data.dir',
  switches={'--finetune': ('head', FINETUNE, 'train the whole network')},
)
