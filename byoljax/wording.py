"""How messages count things."""


def counted(count: int, noun: str, nouns: str = '') -> str:
  """A number with its noun; `nouns` is the plural where that is not the noun and an s.

  Examples:
    >>> counted(1, 'test image'), counted(1200, 'test image'), counted(0, 'class', 'classes')
    ('1 test image', '1,200 test images', '0 classes')
  """
  return f'{count:,} {noun if count == 1 else nouns or f"{noun}s"}'
