"""What a command said on standard error."""


def one_sentence(error: str) -> bool:
  """Whether this is one line beside those that tell, on a slow machine, what is being done."""
  lines = [line for line in error.splitlines() if not line.endswith((' so far', ' left'))]
  return len(lines) == 1 and error.endswith('\n')
