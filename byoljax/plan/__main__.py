"""`python -m byoljax.plan`; see `byoljax.plan.command`."""

from byoljax.devices import stop


def main() -> int:
  """Makes and prints a plan; returns an exit status."""
  from byoljax.plan import command  # Takes a while, in which a signal may arrive.

  return command.main()


if __name__ == '__main__':
  stop.run_program(main)
