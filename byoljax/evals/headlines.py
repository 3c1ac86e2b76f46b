"""The number that stands for an evaluation among others: name, unit, and which way is better."""

from typing import NamedTuple

from byoljax.evals import detection, scores


class Headline(NamedTuple):
  """How one number of a result is shown.

  Attributes:
    title: for a person.
    form: format of its values, with their unit; a depth's is that of the data.
    sign: 1 where a larger one is better, -1 where a smaller one is.
  """

  title: str
  form: str = '{:.1%}'
  sign: int = 1

  @property
  def heading(self) -> str:
    """The title, with a word on numbers that should be small."""
    return self.title if self.sign > 0 else f'{self.title} (lower is better)'


# By the name in results. Where a result has several, the first one here stands for it.
HEADLINES = {
  **{name: Headline(scores.METRICS[name]) for name in ('map', 'top1', 'map11', 'mean_per_class')},
  'auroc': Headline('mean AUROC', '{:.3f}'),
  'mean_iou': Headline('mean IoU'),
  'ap': Headline(detection.METRICS['ap']),
  'rms': Headline('rms', '{:.4g}', -1),
}


def titled(title: str) -> Headline:
  """The headline of a title; numbers of a title that there is not are shares."""
  return next((each for each in HEADLINES.values() if each.title == title), Headline(title))
