"""What other libraries' weights can be imported, and as which encoder."""

import argparse
import textwrap

from byoljax.tasks.command import Command

_WIDTH = 86  # characters of a line, beside the first column


def run(options: argparse.Namespace) -> int:
  """Prints a table of published weights."""
  from byoljax.weights.published import PUBLISHED

  del options
  for each in PUBLISHED:
    print(each.whose)
    for what, text in (('encoders', ', '.join(each.encoders)), ('files', each.files)):
      lines = textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)
      print(textwrap.indent('\n'.join(lines), ' ' * 12).replace(' ' * 12, f'  {what:<10}', 1))
  print(
    '\nbyoljax import FILE --workdir runs/theirs reads any of them and detects the encoder.\n'
    'Files are yours to fetch: nothing is downloaded.'
  )
  return 0


COMMAND = Command('models', 'list the weights of other libraries that can be imported', run, ())
