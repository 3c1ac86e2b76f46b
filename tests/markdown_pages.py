"""The repository's Markdown pages, for tests of what they show and say."""

import re
import sys
from typing import NamedTuple

from tests.paths import ROOT

TOOLS = ROOT / 'docs' / 'tools'
sys.path.insert(0, str(TOOLS))

import notebooks  # noqa: E402, F401
import pages  # noqa: E402
import recipe_pages  # noqa: E402, F401

_BLOCK = re.compile(
  r'(?P<mark><!-- not run -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```', re.S | re.M
)


class Block(NamedTuple):
  """A fenced block: its language, its text, and whether the page says that it does not run."""

  language: str
  text: str
  runs: bool


def written() -> dict[str, str]:
  """{path in the repository: text} of every page."""
  return {
    origin: (ROOT / origin).read_text()
    for origin in pages.sources().values()
    if origin.endswith('.md')
  }


def blocks(text: str, language: str) -> list[Block]:
  """The fenced blocks of one language."""
  found = [
    Block(match['language'], match['text'], match['mark'] is None)
    for match in _BLOCK.finditer(text)
  ]
  return [block for block in found if block.language == language]
