"""What a recipe needs on hardware that is not there."""

import argparse

from byoljax.plan import command
from byoljax.tasks.command import RECIPE, Command


def run(options: argparse.Namespace) -> int:
  """Makes the plan, prints it and writes it; see `byoljax.plan`."""
  command.run(options, options.overrides)
  return 0


COMMAND = Command(
  'plan',
  'estimate memory, time and traffic of a recipe on other hardware',
  run,
  (RECIPE,),
  add_flags=command.add_flags,
)
