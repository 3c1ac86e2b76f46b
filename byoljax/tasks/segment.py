"""Semantic segmentation with a run's encoder, frozen and fine-tuned, and from scratch."""

from byoljax.config import Config
from byoljax.tasks import dense
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation


def run(config: Config, invocation: Invocation) -> int:
  """Trains segmentation heads on a run's encoder; see `configs/segment.py`."""
  from byoljax.encoders.dense import SEGMENTATION

  return dense.run(SEGMENTATION, config, invocation)


COMMAND = Command(
  'segment',
  'train a head that predicts masks, and the same from scratch',
  run,
  task='segment',
  recipe='segment',
  field='pretrained',
)
