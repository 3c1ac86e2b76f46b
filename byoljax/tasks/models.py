"""What other libraries' weights can be imported, and as which encoder."""

import argparse

from byoljax.tasks.command import Command


def run(options: argparse.Namespace) -> int:
  """Prints a table of published weights."""
  from byoljax.report import table
  from byoljax.weights.published import PUBLISHED

  del options
  rows = [
    {
      'weights of': each.whose,
      'encoder.name': ', '.join(each.encoders),
      'file, such as': each.files,
    }
    for each in PUBLISHED
  ]
  print(table.format_table(rows, list(rows[0])))
  print(
    '\nbyoljax import FILE --workdir runs/theirs reads any of them; which encoder it is, it finds '
    'out.\nFiles are yours to fetch: nothing is downloaded.'
  )
  return 0


COMMAND = Command('models', 'what weights of other libraries can be imported', run, ())
