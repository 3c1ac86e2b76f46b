"""Few labels in, a classifier out, and its answers about the images that have none.

<workdir>/classifier/       for `byoljax predict`
<workdir>/result.json       cross-validated scores, with their protocol
<workdir>/confusion.csv     which class is taken for which
<workdir>/predictions.csv   every image without a label, with its class
<workdir>/sheet.html        the same to look through
<workdir>/mistakes.html     the labelled images, as they are classified when not trained on
"""

from collections.abc import Callable, Mapping
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byoljax.config import Config, ConfigError, choose, expanded, user_errors
from byoljax.devices import hosts
from byoljax.tasks import data as data_lib
from byoljax.tasks import evaluation, finetune, partly_labelled, predict
from byoljax.tasks.command import Argument, Command
from byoljax.tasks.partly_labelled import PartlyLabelled
from byoljax.wording import counted
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.answers import Trained
  from byoljax.protocols.extraction import EvalData

FINETUNE = 'finetune'
_PREDICTIONS, _SHEET, _MISTAKES = 'predictions.csv', 'sheet.html', 'mistakes.html'


class Given(NamedTuple):
  """The encoder that a classifier stands on.

  Attributes:
    encoder: see `Encoder`.
    image_size: side of the images that it is given.
    directory: the checkpoint; None of an encoder that is not from a run.
    run: what it is built from, see `classifier.Origin`.
  """

  encoder: 'Encoder'
  image_size: int
  directory: pathlib.Path | None
  run: Mapping[str, Any]


def run(config: Config, invocation: Invocation) -> int:
  """Makes a classifier from labelled images and answers about all others; see the module."""
  check(config)
  if not config['from']:
    raise ConfigError('--from is missing: name the run whose encoder to use, such as runs/byol.')
  given = encoder_of(config)
  photos = expanded(config.data.dir)
  home = pathlib.Path(invocation.workdir or default_home(config, given, photos))
  if photos.is_dir():
    data_lib.require_outside(home, photos)
  range_ = given.encoder.preprocessing.range
  images = partly_labelled.open_images(config, home, range_=range_)
  return make(config, invocation, given, images, home)


def check(config: Config) -> None:
  """Raises ConfigError where a field has no such value."""
  from byoljax.encoders.encoder import EMBEDDING
  from byoljax.protocols import classify

  choose('head', config.head, (*classify.HEADS, FINETUNE))
  if not 0 <= config.abstain <= 1:
    raise ConfigError(f'abstain={config.abstain:g} is a probability: give 0 to 1.')
  if config.head == FINETUNE and config.tap != EMBEDDING:
    raise ConfigError(
      f"tap='{config.tap}' is read by heads on frozen features, but fine-tuning trains the whole "
      'encoder: leave it out, or keep layers of the projector with --finetune.head_layers=1.'
    )
  with user_errors('classify'):
    classify.ClassifyProtocol(config.head, **config.classify.to_dict())


def encoder_of(config: Config) -> Given:
  """The encoder of the run that `config['from']` names."""
  from byoljax.encoders import load

  encoder, pretraining, directory = load.load_encoder(config['from'], config.network, config.tap)
  size = config.image_size or pretraining.evals.image_size
  return Given(encoder, size, directory, run_dir.run_record(directory.parent.parent))


def default_home(
  config: Config, given: Given, photos: pathlib.Path | None, name: str = ''
) -> pathlib.Path:
  """Where a classifier goes: among the evaluations of its encoder's run.

  It is named after the images, or as `name` says where they lie nowhere; folders of one name do not
  share it.

  Raises:
    ConfigError: the encoder is not from a run.
  """
  if given.directory is None:
    raise ConfigError('workdir is missing: an encoder that is no run has no place for results.')
  at = run_dir.evals_dir(given.directory)
  of = photos.resolve().stem if photos else name
  home = at / f'classify-{config.network}-{given.directory.name}-{of}'
  return evaluation.apart(home, photos) if photos else home


def make(
  config: Config,
  invocation: Invocation,
  given: Given,
  images: PartlyLabelled,
  home: pathlib.Path,
) -> int:
  """Makes a classifier of images that are open; see the module for what it leaves in `home`."""
  from byoljax.encoders import classifier
  from byoljax.protocols import folds

  if config.data.dir:
    with config.unlocked():  # The same from wherever it is called again.
      config.data.dir = str(expanded(config.data.dir).resolve())
  data = _eval_data(config, given, images)
  folds.require_single(data.train)
  others = images.rest.size if images.rest else 0
  say(
    f'{data.train.size:,} labelled images of {data.train.num_classes} classes, '
    f'{counted(others, "other")}; encoder of {given.directory or "the program"} '
    f'({evaluation.which(config)})\n'
    f'tested on {folds.describe(data)}'
  )
  train = _training(config, given, data, invocation, home)
  with lock_workdir(home):
    trained = train()
    _say_scores(trained, data)
    if hosts.is_first_process():
      for name in (_PREDICTIONS, _SHEET, _MISTAKES):  # Those of another time are of another one.
        (home / name).unlink(missing_ok=True)
    where = evaluation.leave(home, trained, data, config, given.directory, run=given.run)
    run_dir.write_result(home / 'result.json', trained.result, config, given.directory)
    say(f'result  {home / "result.json"}')
    unreadable = hosts.count_distinct(images.train.unreadable.names)
    if where is None or not hosts.is_first_process():
      return 0
    _show_mistakes(trained, data, home, images.root)
    if unreadable:
      say(f'{counted(unreadable, "labelled image")} cannot be read: see {home / "unreadable.txt"}')
    made = classifier.load(where, module=own_module(given))
    status = _answer_rest(config, made, images, home)
    return max(status, predict.SOME_UNREADABLE if unreadable else 0)


def own_module(given: Given) -> Any:
  """The module of an encoder that has no name."""
  return None if given.encoder.fields else given.encoder.net.parts[0][2]


def _eval_data(config: Config, given: Given, images: PartlyLabelled) -> 'EvalData':
  from byoljax.protocols import extraction

  size = config.finetune.batch_size if config.head == FINETUNE else config.batch_size
  train, test, preprocessing = images.train, images.test, given.encoder.preprocessing
  return extraction.EvalData(
    train,
    test or train,
    image_size=given.image_size,
    mean=preprocessing.mean,
    std=preprocessing.std,
    batch_size=extraction.fit_to_devices(min(size, max(train.size, test.size if test else 0))),
    threads=config.data.threads,
    has_test=test is not None,
  )


def _training(
  config: Config, given: Given, data: 'EvalData', invocation: Invocation, home: pathlib.Path
) -> 'Callable[[], Trained]':
  """What trains the head that is asked for; all that can be refused is refused before it does."""
  from byoljax.protocols import classify
  from byoljax.protocols import finetune as protocols
  from byoljax.train import assemble

  encoder, head = given.encoder, None
  if config.head != FINETUNE:
    own = classify.ClassifyProtocol(head=config.head, **config.classify.to_dict())
    return lambda: classify.fit(encoder, data, own)
  protocol = protocols.FinetuneProtocol(**config.finetune.to_dict())
  logging = assemble.logging_of(config)
  protocols.check(data, protocol, logging, encoder)
  if protocol.head_layers:
    assert given.directory is not None  # An encoder that is no run is not fine-tuned.
    encoder, head = finetune.with_head(
      encoder, given.directory, config.network, protocol.head_layers
    )
  with config.unlocked():
    config['from'] = str(expanded(config['from']).resolve())

  def train() -> 'Trained':
    evaluation.open_home(home, config, invocation, data.train, encoder)
    return protocols.fit(
      encoder, data, protocol, logging=logging, head=head, workdir=home / FINETUNE
    )

  return train


def _say_scores(trained: 'Trained', data: 'EvalData') -> None:
  from byoljax.evals import scores
  from byoljax.protocols import answers
  from byoljax.report import confusion, table

  result = trained.result
  if len(result.get('heads', {})) > 1:
    titles = {'top1': 'top-1', 'mean_per_class': 'balanced', 'majority': 'largest class',
              'ece': 'calibration error', 'cross_entropy': 'cross-entropy'}  # fmt: skip
    known = {head: each['cross_entropy'] for head, each in result['heads'].items()
             if each['cross_entropy'] is not None}  # fmt: skip
    least = min(known, key=lambda head: known[head], default=result['head'])
    why = 'lowest cross-entropy' if result['head'] == least else f'{least} is not clearly better'
    rows: list[Mapping[str, Any]] = [
      {'head': head, **{title: each[key] for key, title in titles.items()},
       '': f'<- kept: {why}' if head == result['head'] else ''}
      for head, each in result['heads'].items()
    ]  # fmt: skip
    formats = dict.fromkeys(titles.values(), '{:.1%}') | {'cross-entropy': '{:.3f}'}
    say(table.format_table(rows, ['head', *formats, ''], formats=formats))
  counts, names = answers.confusion(trained), answers.class_names(data)
  say(f'\n{confusion.by_class(counts, names)}\n')
  wrong = confusion.commonest(counts, names)
  if wrong:
    say(f'Most often mistaken: {wrong}')
  say(f'{scores.format_scores(result)}, of {int(counts.sum()):,} images')


def _show_mistakes(trained: 'Trained', data: 'EvalData', home: pathlib.Path, root: str) -> None:
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
  how = 'cross-validated' if len(trained.answers) > 1 else 'held out'
  kind = 'test images' if data.has_test else f'labelled images, {how}'
  title = f'{pathlib.PurePath(root).stem}: {len(rows):,} {kind}'
  predict.write_sheet(str(home / _MISTAKES), title, made, source, root, data.train.num_classes)


def _answer_rest(config: Config, made: Any, images: PartlyLabelled, home: pathlib.Path) -> int:
  """Classifies what has no label; the exit status says whether all could be read."""
  from byoljax.protocols import prediction

  rest = images.rest
  if rest is None:
    return 0
  found = prediction.predict(made, rest, batch_size=config.batch_size, threads=config.data.threads)
  out, sheet = home / _PREDICTIONS, home / _SHEET
  answers = predict.write(
    str(out), str(sheet), made, rest, found, images.root, abstain=config.abstain
  )
  return predict.say(answers, made)


COMMAND = Command(
  'classify',
  'train a classifier on labelled images, and classify the others',
  run,
  (Argument('PHOTOS', 'directory', 'a folder of images, or an .npz file'),),
  task='classify',
  recipe='classify',
  field='data.dir',
  workdir='evals/classify-... of the run that --from names',
  switches={'--finetune': ('head', FINETUNE, 'train the whole network')},
)
