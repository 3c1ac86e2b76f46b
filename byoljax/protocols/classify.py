"""A classifier from few labelled images and an encoder that stays as it is.

Logistic regression and k-NN on the features, with their settings, the penalty lambda and the number
k, chosen by cross-validation: the calibrated cross-entropy of images that were not trained on
decides. k-NN is taken where its cross-entropy is lower by more than a standard error (compare the
one-standard-error rule of Breiman et al. 1984): among a hundred images a lower one is often chance,
and logistic regression had 3 to 6 points more in each of four draws of a hundred labels of
Imagenette. What is chosen is fitted to all labelled images.

How good that is, cross-validation tells, too, without a test split: of each part's images the score
is that of the setting and temperature that the answers about the other parts chose, so that no
answer has a say in what it is scored by. Which of the two heads is taken, all parts say: of two the
better is no more than a little better by chance. Where one part is enough (`folds.MOST`), its
images are a test split: cross-validation among the others chooses.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from byoljax.config import choose, user_errors
from byoljax.encoders.encoder import Encoder
from byoljax.evals import calibration, frozen, logistic, scores
from byoljax.ops import readouts
from byoljax.ops.readouts import Readout
from byoljax.protocols import answers, folds, frozen_features
from byoljax.protocols.answers import Answers, Trained
from byoljax.protocols.extraction import EvalData
from byoljax.protocols.frozen_features import Split
from byoljax.workdir import activity

HEADS = ('auto', 'logistic', 'knn')
# Every other one of those of transfer.
LAMBDAS = frozen.LAMBDAS[::2]
KS = (1, 3, 5, 10, 20, 50, 200)


@dataclasses.dataclass(frozen=True)
class ClassifyProtocol:
  """How a classifier of frozen features is found.

  Attributes:
    head: 'logistic', 'knn', or 'auto': k-NN where it is clearly better, else the other.
    lambdas: penalties of the logistic regression, see `frozen.fit_logistic`; () takes `LAMBDAS`.
    k: numbers of neighbors; () takes `KS`, as far as there are so many images.
    max_iterations: of L-BFGS.

  Raises:
    ValueError: a penalty that is not above 0, or a number of neighbors below 1.
  """

  head: str = 'auto'
  lambdas: tuple[float, ...] = ()
  k: tuple[int, ...] = ()
  max_iterations: int = 1000

  def __post_init__(self) -> None:
    if not all(value > 0 for value in self.lambdas) or not all(k >= 1 for k in self.k):
      raise ValueError(f'lambdas={self.lambdas} must be above 0, and k={self.k} at least 1.')

  @property
  def heads(self) -> tuple[str, ...]:
    """Those that are tried."""
    return ('logistic', 'knn') if self.head == 'auto' else (self.head,)


class _Candidate(NamedTuple):
  """A setting, and what it says of each part's images when trained on the others."""

  head: str
  setting: dict[str, float]
  scored: list[answers.Scored]


def fit(encoder: Encoder, data: EvalData, protocol: ClassifyProtocol | None = None) -> Trained:
  """Finds a classifier and fits it to all labelled training images.

  Args:
    encoder: see `Encoder`.
    data: labelled images; a test split is looked at once, for the result.
    protocol: see `ClassifyProtocol`.

  Returns:
    The classifier. Its result: scores of the test images, or cross-validated ones, with 'head', its
    setting 'lambda' or 'k', 'heads' (the cross-validated scores of each, and the cross-entropy that
    decides, None where every class has a single image), 'train_examples' and 'test_examples'.

  Raises:
    ConfigError: an unknown head, images that have several labels each, fewer than two classes.
  """
  protocol = protocol or ClassifyProtocol()
  choose('head', protocol.head, HEADS)
  folds.require_single(data.train)
  split = frozen_features.splits(encoder, data)
  everything = frozen_features.every_image(data, split)
  parts = split
  if len(split) == 1:  # Its test images must not choose.
    x, y = split[0][0]
    parts = [((x[a], y[a]), (x[b], y[b])) for a, b in folds.rows_of(y)]
  classes = data.train.num_classes
  with user_errors('classify'), activity.doing(f'classifiers of {len(everything[1]):,} images'):
    frozen.check_labelled(*everything)
    found = {head: _candidates(head, parts, classes, protocol) for head in protocol.heads}
    best = {head: _best(some) for head, some in found.items()}
    head = _taken({head: some[best[head]] for head, some in found.items()})
    candidate = found[head][best[head]]
    readout = _fitted(head, candidate.setting, everything, classes, protocol)
  made = {head: _cross_fitted(some) for head, some in found.items()}
  tested = made[head]
  if len(split) == 1:
    train, test = split[0]
    judged = (
      readout if data.has_test else _fitted(head, candidate.setting, train, classes, protocol)
    )
    tested = (answers.answers_of(judged, test, answers.joined(candidate.scored)),)
  logits, labels = answers.joined([each.tested for each in tested])
  result = {
    **scores.of_logits(logits, labels),
    'head': head,
    **candidate.setting,
    'heads': {
      name: _scores(each) | {'cross_entropy': loss if np.isfinite(loss) else None}
      for name, each in made.items()
      for loss in [_loss(found[name][best[name]].scored)]
    },
    'train_examples': len(everything[1]),
    'test_examples': len(labels),
  }
  return Trained(result, encoder, readout, tested)


def _scores(each: Sequence[Answers]) -> dict[str, Any]:
  found = scores.of_logits(*answers.joined([one.tested for one in each]))
  return found | {'ece': answers.calibrated(each)['ece']}


def _candidates(
  head: str,
  parts: Sequence[tuple[Split, Split]],
  classes: int,
  protocol: ClassifyProtocol,
) -> list[_Candidate]:
  """Every setting of a head, with its scores of all parts."""
  settings = _settings(head, parts, protocol)
  scored: list[list[answers.Scored]] = [[] for _ in settings]
  for train, test in parts:
    made = _path(head, settings, train, classes, protocol)
    for place, readout in zip(scored, made, strict=True):
      place.append((readouts.logits_of(readout, test[0]), test[1]))
  return [_Candidate(head, setting, each) for setting, each in zip(settings, scored, strict=True)]


def _settings(
  head: str, parts: Sequence[tuple[Split, Split]], protocol: ClassifyProtocol
) -> list[dict[str, float]]:
  if head == 'logistic':
    # Strongest first: each fit starts from the previous one.
    return [{'lambda': value} for value in sorted(protocol.lambdas or LAMBDAS, reverse=True)]
  most = min(len(train[1]) for train, _ in parts)
  return [{'k': k} for k in sorted({min(k, most) for k in protocol.k or KS})]


def _path(
  head: str,
  settings: Sequence[Mapping[str, float]],
  train: Split,
  classes: int,
  protocol: ClassifyProtocol,
) -> list[Readout]:
  """A fitted classifier for every setting."""
  if head == 'knn':
    return [readouts.neighbors(*train, classes=classes, k=int(one['k'])) for one in settings]
  made, start = [], None
  if len(np.unique(train[1])) < 2:  # Nothing to tell apart: the one class that there is.
    bias = np.full(classes, readouts.NEVER, np.float32)
    bias[train[1][0]] = 0.0
    nothing = readouts.Linear(np.zeros((train[0].shape[1], classes), np.float32), bias)
    return [nothing for _ in settings]
  features = logistic.rotated(train[0])
  for one in settings:
    start = logistic.fit(features, train[1], one['lambda'], protocol.max_iterations, start)
    made.append(frozen.linear_readout(start, classes))
  return made


def _fitted(
  head: str, setting: Mapping[str, float], train: Split, classes: int, protocol: ClassifyProtocol
) -> Readout:
  return _path(head, [setting], train, classes, protocol)[0]


def _losses(scored: Sequence[answers.Scored]) -> np.ndarray:
  """Cross-entropy of each image at the best temperature; NaN where its class could not be known."""
  logits, labels = answers.joined(scored)
  losses = np.full(len(labels), np.nan)
  known = logits[np.arange(len(labels)), labels] > readouts.NEVER / 2
  if known.any():
    logits, labels = logits[known], labels[known]
    temperature = calibration.fit_temperature(logits, labels)
    losses[known] = calibration.cross_entropy(logits, labels, temperature)
  return losses


def _loss(scored: Sequence[answers.Scored]) -> float:
  """Their mean; infinite where no class could be known."""
  losses = _losses(scored)
  return float(np.nanmean(losses)) if np.isfinite(losses).any() else float('inf')


def _taken(heads: Mapping[str, _Candidate]) -> str:
  """The first head, or one whose losses are lower by more than the standard error of that."""
  first, *others = heads
  for head in others:
    gains = _losses(heads[first].scored) - _losses(heads[head].scored)
    gains = gains[np.isfinite(gains)]
    if len(gains) > 1 and gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)):
      first = head
  return first


def _best(some: Sequence[_Candidate], without: int | None = None) -> int:
  """Which candidate is best, by all parts or by all but one."""
  losses = [_loss([part for at, part in enumerate(one.scored) if at != without]) for one in some]
  return int(np.argmin(losses))


def _cross_fitted(some: Sequence[_Candidate]) -> tuple[Answers, ...]:
  """Of every part the answers of the setting that the other parts choose."""
  count = len(some[0].scored)
  return tuple(
    Answers(some[_best(some, at if count > 1 else None)].scored[at]) for at in range(count)
  )
