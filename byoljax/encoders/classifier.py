"""`Classifier`: a trained classifier of images as one value, and as a directory.

    classifier = classifier.load('runs/byol/evals/linear-online-100')
    chances = classifier.predict(images)  # uint8 [b, S, S, 3] -> float32 [b, C]
    best = [classifier.classes[i] for i in chances.argmax(1)]

Network, weights and preprocessing (an `Encoder`), the readout on its features, the classes, the
temperature that makes the probabilities believable, and where all that is from. The directory holds
everything, so it can be copied to another machine, and it outlives the checkpoint:

    classifier.json      classes, readout, temperature, protocol, scores, the run's configuration
    weights-<mark>.npz   arrays of the network and the readout, NumPy only

`classifier.json` names the file with the weights and is replaced at once, after that file is there:
a reader sees the old classifier or the new one.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax.config import user_errors
from byoljax.encoders import load as load_lib
from byoljax.encoders import method_network, stored_arrays
from byoljax.encoders.encoder import EMBEDDING, Encoder, Preprocessing, network, pool_of
from byoljax.models import heads
from byoljax.models.net import Net, stack
from byoljax.models.taps import truncate
from byoljax.ops import readouts
from byoljax.ops.readouts import Readout
from byoljax.version import versions
from byoljax.workdir import stored_config

PyTree = Any
FILE, FOLDER = 'classifier.json', 'classifier'
TRUNK = 'trunk'
_FORMAT = 1


class Origin(NamedTuple):
  """What a classifier's network is built from.

  Attributes:
    run: what the pretraining run's config.json says: 'config' and 'facts'.
    network: which of its networks: 'online', 'target', or a baseline.
    trunk: arguments of the `heads.MLPHead` that stayed under the readout in fine-tuning, or None.
  """

  run: Mapping[str, Any]
  network: str
  trunk: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
  """A classifier of images; it can be pickled.

  Attributes:
    encoder: network, weights, preprocessing and the tap that the readout reads.
    readout: features -> scores, see `ops.readouts`.
    classes: C names, in the order of the scores.
    temperature: T of softmax(scores / T).
    protocol: how it was made and what it scored, for JSON.
    origin: see `Origin`.
  """

  encoder: Encoder
  readout: Readout = dataclasses.field(repr=False)
  classes: tuple[str, ...]
  temperature: float
  protocol: Mapping[str, Any] = dataclasses.field(repr=False)
  origin: Origin = dataclasses.field(repr=False)

  def predict(self, images: Any) -> jax.Array:
    """Probabilities float32 [b, C]; every row adds up to 1.

    Args:
      images: as for `Encoder.__call__`: uint8 [b, S, S, C], or float in [0, 1].

    Raises:
      ValueError: another shape or type.
    """
    return self.chances(self.encoder(images))

  def chances(self, features: jax.Array) -> jax.Array:
    """Probabilities float32 [b, C] of features [b, D]."""
    return jax.nn.softmax(self.readout.logits(features) / self.temperature, axis=-1)

  def apply(self, images: jax.Array) -> jax.Array:
    """`predict` as a pure function, to be compiled or exported."""
    return self.chances(self.encoder.apply(self.encoder.params, self.encoder.bn, images))


def trunk_network(encoder: Encoder, trunk: Mapping[str, Any] | None) -> Net:
  """The encoder's network with the first layers of a projector behind it, where there are any."""
  if trunk is None:
    return encoder.net
  dtype = jax.numpy.dtype(encoder.fields.get('dtype', 'float32'))
  module = heads.MLPHead(**stored_arrays.tuples(trunk), trunk=True, dtype=dtype)
  return stack((*encoder.net.parts[:1], ('projector', TRUNK, module)))


def save(classifier: Classifier, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a classifier's directory, or replaces the one that is there.

  Raises:
    OSError: it cannot be written.
  """
  home = pathlib.Path(path)
  settings, arrays = {}, {}
  for name, value in classifier.readout._asdict().items():
    (arrays if isinstance(value, np.ndarray) else settings)[name] = value
  encoder = classifier.encoder
  trees = {'params': encoder.params, 'bn': encoder.bn, 'readout': arrays}
  kind = next(name for name, of in readouts.READOUTS.items() if isinstance(classifier.readout, of))
  about = {
    'format': _FORMAT,
    'classes': list(classifier.classes),
    'temperature': classifier.temperature,
    'readout': {'kind': kind, **settings},
    'preprocessing': encoder.preprocessing._asdict(),
    'tap': encoder.tap,
    'pool': encoder.pool,
    'protocol': dict(classifier.protocol),
    'origin': classifier.origin._asdict(),
    'versions': versions(),
  }
  stored_arrays.write(home, FILE, about, trees)
  return home


def load(path: str | os.PathLike[str], *, module: Any = None) -> Classifier:
  """Reads a classifier.

  Args:
    path: its directory, that of the evaluation that left it, or a run's, see `find`.
    module: the linen module of its encoder, where that is one of the user's own.

  Raises:
    ConfigError: there is none, or it is damaged.
  """
  home = find(path)
  with stored_arrays.opened(home, FILE, _FORMAT, 'classifier') as (about, arrays):
    return _built(about, arrays, module)


def find(path: str | os.PathLike[str]) -> pathlib.Path:
  """The directory of a classifier.

  Of several that evaluations left in a run the newest is taken, those of baselines last.

  Args:
    path: the directory itself, of an evaluation, or of a run.

  Raises:
    ConfigError: there is none.
  """
  return stored_arrays.find(
    path,
    FILE,
    every,
    what='classifier',
    made_by='`byoljax classify` makes one from labelled images, and so do linear, logistic, svm, '
    'knn and finetune on a run.',
  )


def is_one(path: pathlib.Path) -> bool:
  """Whether this is the directory of a classifier, or that of the evaluation that left it."""
  return any((home / FILE).is_file() for home in (path, path / FOLDER))


def every(home: pathlib.Path) -> list[pathlib.Path]:
  """All classifiers of an evaluation or a run, as `find` prefers them."""
  found = [file.parent for depth in ('', '*/', 'evals/*/', 'evals/*/*/')
           for file in home.glob(f'{depth}{FOLDER}/{FILE}')]  # fmt: skip

  def rank(folder: pathlib.Path) -> tuple[bool, float]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      about = json.loads((folder / FILE).read_text())
      baseline = about['origin']['network'] in load_lib.BASELINES
      return baseline, -(folder / FILE).stat().st_mtime
    return True, 0.0

  return sorted(found, key=rank)


def _built(about: Mapping[str, Any], arrays: dict[str, Any], module: Any) -> Classifier:
  """A classifier from what `save` wrote."""
  preprocessing = Preprocessing(**stored_arrays.tuples(about['preprocessing']))
  origin = Origin(**about['origin'])
  config = stored_config.stored(origin.run['config'])
  fields = {} if module is not None else dict(config.encoder)
  if 'pool' in fields:
    fields['pool'] = about['pool']  # Fine-tuning may pool in another way.
  if origin.network == 'pixels':
    fields['name'] = 'pixels'
  tap, facts = about['tap'], origin.run.get('facts', {})
  with user_errors('the encoder of the classifier'):
    given = fields if module is None else module
    # The options of a module from elsewhere are not known; it has its input in itself.
    known = stored_config.stored_encoder(config.encoder.to_dict())
    net = network(given, preprocessing, known['input'] if known else 'rgb')
    encoder = Encoder(net, {}, {}, preprocessing, pool=pool_of(fields), fields=fields)
    if origin.trunk is not None:
      net = trunk_network(encoder, origin.trunk)
    elif tap != EMBEDDING:
      method = method_network.of_facts(config, facts, module, 'the classifier')
      net = truncate(net if method is None or method.net is None else method.net, (tap,))
  params, bn = stored_arrays.of_roles(arrays, net)
  settings = dict(about['readout'])
  readout = readouts.READOUTS[settings.pop('kind')](**settings, **arrays['readout'])
  return Classifier(
    dataclasses.replace(encoder, net=net, params=params, bn=bn, tap=tap),
    readout,
    tuple(about['classes']),
    float(about['temperature']),
    about['protocol'],
    origin,
  )
