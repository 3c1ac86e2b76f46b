"""What a recipe needs on hardware that is not there: memory, work, traffic, time and cost.

    python -m byoljax.plan --config=configs/byol.py:imagenet,1000 --topology=v5e:4x4

`aot` compiles the recipe's own train step for a described machine and reads what the compiler says;
`flops` and `collectives` count work and traffic; `estimate` turns both into a range of times under
assumptions that it writes down; `hardware` holds the facts of the devices, `target` describes GPUs
to the compiler, `report` is for the reader, `command` for the command line.
"""
