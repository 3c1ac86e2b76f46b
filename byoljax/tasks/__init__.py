"""What can be run: one module for each command of `byoljax`, and the table of them.

The command line, its help and completion, the tasks of configurations, and the documentation's list
of commands are all made from `COMMANDS`. See `byoljax.tasks.command` for what a module defines.
"""

from byoljax.tasks import (
  anomaly,
  bench,
  classify,
  collapse,
  compare,
  depth,
  detect,
  embed,
  export,
  few_labels,
  finetune,
  hypersphere,
  import_weights,
  knn,
  layers,
  likelihood,
  linear,
  logistic,
  models,
  plan,
  predict,
  pretrain,
  push,
  reconstruct,
  report,
  retrieval,
  robustness,
  runs,
  sample,
  search,
  segment,
  stats,
  svm,
  transfer,
  views,
  web,
)
from byoljax.tasks.command import Command

# In the order of the help.
_MODULES = (
  pretrain,
  views,
  stats,
  bench,
  plan,
  classify,
  predict,
  knn,
  linear,
  finetune,
  segment,
  depth,
  detect,
  transfer,
  logistic,
  svm,
  few_labels,
  anomaly,
  retrieval,
  robustness,
  layers,
  hypersphere,
  collapse,
  likelihood,
  embed,
  search,
  reconstruct,
  sample,
  export,
  push,
  import_weights,
  models,
  report,
  compare,
  runs,
  web,
)

COMMANDS: dict[str, Command] = {module.COMMAND.name: module.COMMAND for module in _MODULES}

# By what a configuration's field `task` says.
TASKS = {command.task: command.run for command in COMMANDS.values() if command.task}
