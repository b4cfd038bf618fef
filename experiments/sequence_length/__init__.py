"""Study of the training sequence length: loss against T, with the state reset or carried.

`python -m experiments.sequence_length` trains missing runs and writes `results.json`,
`tables.md` and figures. docs/studies/sequence_length/index.md discusses the published results.

    __main__.py   question, presets, cost, and the order of the stages
    runs.py       training runs and their scores
    measures.py   measurements of conditions, and comparisons between lengths
    results.py    all results, and their form in results.json
    tables.py     tables.md
    figures.py    figures
"""
