"""Study of the scale factor (inverse temperature): its effect on text sampled from trained runs.

`python -m experiments.scale_factor` samples from runs and writes `results.json`, `samples.json`,
`tables.md` and figures. docs/studies/scale_factor/index.md discusses the published results.

    __main__.py   question, flags, cost
    settings.py   sampling settings under comparison
    measures.py   measurements of the sampled text, and of the run on held-out text
    tables.py     tables.md
    figures.py    figures
"""
