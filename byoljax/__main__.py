"""`python -m byoljax`: the command `byoljax`; see `byoljax.cli`."""

from typing import NoReturn

from byoljax.devices import stop


def main() -> NoReturn:
  """The command `byoljax` as a process of its own."""
  stop.run_program(_run)


def _run() -> int:
  from byoljax import cli  # Takes a while, in which a signal may arrive.

  return cli.run()


if __name__ == '__main__':
  main()
