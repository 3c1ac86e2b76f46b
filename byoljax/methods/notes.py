"""Sentences for `Method.notes`: settings of a method that are allowed, and rarely wanted."""

from byoljax.method import Setting
from byoljax.wording import counted


def of_late(
  field: str, text: str, step: int, setting: Setting, consequence: str
) -> tuple[str, ...]:
  """Of a duration that the run does not reach.

  Args:
    field: its name.
    text: as it was given.
    step: the first one at which it is over.
    setting: the run.
    consequence: what never happens.
  """
  total = setting.length.total_steps
  if step < total:
    return ()
  return (f'{field}={text!r}, and the run has {counted(total, "step")}: {consequence}.',)


def of_queue(size: int, setting: Setting, consequence: str) -> tuple[str, ...]:
  """Of a queue of past images that holds every image of the data set, and older ones.

  Args:
    size: rows of the queue; 0 for none.
    setting: the run.
    consequence: what an image's own row does.
  """
  if not 0 < setting.num_examples <= size:
    return ()
  return (
    f'the queue has {size:,} rows and the data {setting.num_examples:,} images: an image meets its '
    f'own earlier projection, which {consequence}. A smaller queue_size avoids it.',
  )


def of_unfilled(size: int, setting: Setting, consequence: str) -> tuple[str, ...]:
  """Of a queue of one row for each image that has to be full first, and never is.

  Args:
    size: rows of the queue.
    setting: the run.
    consequence: what never happens.
  """
  batch, total = setting.length.batch_size, setting.length.total_steps
  # Full before a step, which is not the one that fills it.
  if size <= batch * (total - 1):
    return ()
  return (
    f'queue_size={size:,} takes {counted(-(-size // batch), "step")} of {batch:,} images to fill, '
    f'and the run has {counted(total, "step")}: {consequence}.',
  )


def of_prototypes(count: int, queue_size: int, setting: Setting) -> tuple[str, ...]:
  """Of more prototypes than there are images to share them out to."""
  images = setting.micro_batch_size + queue_size
  if count <= images:
    return ()
  return (
    f'{count:,} prototypes are shared out to {images:,} images at a time: not all of them can be '
    'used. Fewer prototypes, a larger batch or a queue would help.',
  )


def of_accumulation(setting: Setting) -> tuple[str, ...]:
  """Of a loss that compares the images of a batch without `Method.compare`: of micro-batches."""
  if setting.accumulate == 1:
    return ()
  part, whole = setting.micro_batch_size, setting.length.batch_size
  return (
    f'train.accumulate={setting.accumulate} changes the objective of this method: its loss '
    f'compares the {part:,} images of a micro-batch, not the {whole:,} of a batch. encoder.remat, '
    'or bfloat16, saves memory without that.',
  )
