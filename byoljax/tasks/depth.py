"""Depth from single images with a run's encoder, frozen and fine-tuned, and from scratch."""

from byoljax.config import Config
from byoljax.tasks import dense
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation


def run(config: Config, invocation: Invocation) -> int:
  """Trains depth decoders on a run's encoder; see `configs/depth.py`."""
  from byoljax.encoders.dense import DEPTH

  return dense.run(DEPTH, config, invocation)


COMMAND = Command(
  'depth',
  'train a head that predicts depth, and the same from scratch',
  run,
  task='depth',
  recipe='depth',
  field='pretrained',
)
