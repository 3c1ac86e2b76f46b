"""How a network is fine-tuned, and the settings that are tried."""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any, NamedTuple

from byoljax.methods.supervised import supervised


class Choice(NamedTuple):
  """One of the settings that a sweep tries."""

  base_lr: float
  length: str
  weight_decay: float


@dataclasses.dataclass(frozen=True)
class FinetuneProtocol:
  """How a network is fine-tuned; `configs.base.finetune_protocol` has BYOL's values.

  Attributes:
    protocol: what to call it in results.
    length: a duration.
    batch_size: global; at most the number of labelled images is used.
    optim: fields as in `configs.base.optimizer`.
    head_lr: learning rate of the classifier, as a multiple of the encoder's.
    sweep: 'base_lr', 'length' and 'weight_decay', each with the values to try; an empty entry is
      the protocol's own value.
    held_out: share of the labelled images that chooses among them.
    batch_norm: 'batch', or 'frozen' for the running statistics of pretraining.
    head_layers: of the projector that stay under the classifier.
    pool: how a vision transformer's tokens become one vector, '' as in pretraining.
    drop_path: see `methods.supervised.supervised`, as for the three below.
    mixup: a of mixup's Beta(a, a).
    cutmix: a of CutMix's.
    label_smoothing: how much of the label is spread over all classes.
    freeze: the last part of the encoder that keeps its weights, see `methods.supervised`.
    crops: of a test image, whose scores are averaged: 1, the center, or 10, see `ten_crops`.
    crop_scale: smallest and largest share of the area that a crop keeps.
    seed: of the order, the crops and the held-out part.
  """

  protocol: str
  length: str
  batch_size: int
  optim: Mapping[str, Any]
  head_lr: float
  sweep: Mapping[str, tuple[Any, ...]]
  held_out: float
  batch_norm: str
  head_layers: int
  pool: str
  drop_path: float
  mixup: float
  cutmix: float
  label_smoothing: float
  freeze: str
  crops: int
  crop_scale: tuple[float, float]
  seed: int

  @property
  def regularization(self) -> supervised.Regularization:
    """As the method takes it."""
    fields = supervised.Regularization._fields
    return supervised.Regularization(**{name: getattr(self, name) for name in fields})

  @property
  def own(self) -> Choice:
    """The protocol's own values, where nothing is chosen."""
    return Choice(self.optim['base_lr'], self.length, self.optim['weight_decay'])

  @property
  def choices(self) -> list[Choice]:
    """Every combination of the sweep."""
    return [
      Choice(*values)
      for values in itertools.product(
        *(self.sweep[name] or (value,) for name, value in self.own._asdict().items())
      )
    ]
