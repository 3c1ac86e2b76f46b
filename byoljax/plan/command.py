"""Flags and dispatch of `python -m byoljax.plan` and `byoljax plan`."""

import argparse
from collections.abc import Sequence
import sys
from typing import Any

from byoljax import config as config_lib
from byoljax import flags
from byoljax.workdir import places

_EPILOG = """\
examples:

  python -m byoljax.plan --config=configs/byol.py:imagenet,1000 --topology=v5e:4x4 \\
      --config.train.batch_size=1024
  byoljax plan byol:imagenet,1000 --topology h100:4x8 --no_compile --price 2.5

Topologies: v2 v3 v4 v5e v5p v6e tpu7x with the sides of the torus (v5e:4x4, v4:4x4x4); a100-40
a100-80 h100 h200 with hosts x GPUs (h100:2x8). Compiling needs pip install "byoljax[plan]" for
TPUs; see experiments/plan/README.md for GPUs. Fields of the recipe are set as in training.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of a plan, except the recipe."""
  parser.add_argument('--topology', default='', metavar='NAME', help='such as v5e:4x4 or h100:2x8')
  parser.add_argument('--examples', type=int, default=0, metavar='N', help='images in the data set')
  parser.add_argument('--classes', type=int, default=-1, metavar='N', help='classes of its labels')
  parser.add_argument('--share', default='', metavar='LOW,HIGH',
                      help='achieved fraction of peak FLOP/s (default: 0.1,0.4)')  # fmt: skip
  parser.add_argument('--bench', default='', metavar='FILE',
                      help='take it from a bench.json of such a device')  # fmt: skip
  parser.add_argument('--price', type=float, default=0.0, help='price per chip and hour')
  parser.add_argument('--interconnect', type=float, default=0.0, metavar='GB/S',
                      help='bandwidth per chip and direction (default: data sheet)')  # fmt: skip
  parser.add_argument('--host_rate', type=float, default=0.0, metavar='N',
                      help='images per second that a host can deliver')  # fmt: skip
  parser.add_argument('--target_config', default='', metavar='FILE',
                      help="GPUs: XLA's own description of one, as text")  # fmt: skip
  parser.add_argument('--no_compile', action='store_true',
                      help='count only: seconds, needs no compiler, no memory figures')  # fmt: skip
  parser.add_argument('--largest_batch', action='store_true',
                      help='find the largest batch that fits: compiles several times')  # fmt: skip
  parser.add_argument('--out', default='', metavar='FILE', help='write the plan as JSON')


def main(arguments: Sequence[str] | None = None) -> int:
  """Makes and prints a plan; returns an exit status, see `flags.exit_status`."""
  given = list(sys.argv[1:] if arguments is None else arguments)
  return flags.exit_status(lambda: _main(given))


def _main(arguments: list[str]) -> int:
  overrides, rest = flags.split_overrides(arguments)
  run(_parser().parse_all(rest), overrides)
  return 0


def run(options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> None:
  """Makes the requested plan, prints it and writes it.

  Raises:
    ConfigError: invalid flags or configuration.
  """
  if not options.config:
    raise config_lib.ConfigError('--config is missing: name a recipe, such as configs/byol.py.')
  if not options.topology:
    raise config_lib.ConfigError('--topology is missing: name a machine, such as v5e:4x4.')
  for flag in ('largest_batch', 'target_config'):
    if options.no_compile and getattr(options, flag):
      raise config_lib.ConfigError(
        f'--{flag} needs a compiler, which --no_compile leaves out: drop one of them.'
      )
  if options.out:
    places.require_file(options.out, '--out')
  if options.share and options.bench:
    raise config_lib.ConfigError('--share and --bench both say what is reached: drop one of them.')
  shares = _shares(options.share)
  config = config_lib.load(options.config, overrides)
  import jax

  # Nothing runs here, so attached accelerators must not be claimed.
  jax.config.update('jax_platforms', 'cpu')
  from byoljax.plan import report, summary
  from byoljax.workdir.files import write_json

  fields: dict[str, Any] = {
    name: getattr(options, name)
    for name in ('topology', 'examples', 'classes', 'price', 'interconnect', 'host_rate', 'bench')
  }
  if shares:
    fields['share'] = shares
  with config_lib.user_errors():
    plan = summary.make(
      config,
      summary.Options(
        **fields,
        target_config=options.target_config,
        compile=not options.no_compile,
        largest_batch=options.largest_batch,
      ),
    )
  print(report.text(plan))
  if options.out:
    changed = [f'--config.{name}={value}' for name, value in overrides]
    stored = {'recipe': options.config, 'overrides': changed, **plan}
    with config_lib.user_errors('--out'):
      write_json(config_lib.expanded(options.out), stored)
    print(f'\nplan  {options.out}')


def _shares(text: str) -> tuple[float, float] | None:
  if not text:
    return None
  try:
    low, high = (float(part) for part in text.split(','))
  except ValueError:
    raise config_lib.ConfigError(
      f'--share={text} must be two numbers separated by a comma, such as 0.1,0.4.'
    ) from None
  return low, high


def _parser() -> flags.Parser:
  parser = flags.Parser(
    prog='python -m byoljax.plan',
    description='Memory, FLOPs, traffic and time of a recipe on hardware that is not attached.',
    epilog=_EPILOG,
  )
  parser.add_argument('--config', default='', metavar='FILE[:ARG]', help='the recipe')
  add_flags(parser)
  return parser
