"""Plans a recipe for hardware that is not attached: memory, FLOPs, traffic, time and cost.

    python -m byoljax.plan --config=configs/byol.py:imagenet,1000 --topology=v5e:4x4

`aot` compiles the recipe's own train step for a described machine and reads the compiler's report;
`flops` and `traffic` count work and communication; `estimate` turns both into a range of times
under stated assumptions; `hardware` has the facts of the devices, `target` describes GPUs to the
compiler, `report` formats the result, `command` is the command line.
"""
