"""Atlas of layers, and card of optimizers: equal effort, one text.

`python -m experiments.atlas` trains what is not on record and writes `results.json`, `tables.md`
and a figure.

    __main__.py   questions, flags, and the order of the stages
    arms.py       models, update rules and presets
    measures.py   the record of a run, and checks of those on record
    speeds.py     speeds and sizes
    results.py    comparisons, tables and the figure
"""
