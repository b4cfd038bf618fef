"""Study of the training sequence length: loss against T, with the state reset or carried.

`python -m experiments.sequence_length` trains what is not on record and writes `results.json`,
`tables.md` and figures. docs/studies/sequence_length/index.md discusses the results, and
`trained/records` there has the records so far.

    __main__.py   question, flags, and the order of the stages
    arms.py       arms and presets
    runs.py       plan, training and records
    scoring.py    measurements of the text and of a run
    records.py    what is kept of them
    results.py    comparisons, computed from the records
    tables.py     tables.md and results.json
    figures.py    figures
"""
