"""Study of skills: which layers learn which of the texts of `charlm_jax.data.skills`.

`python -m experiments.skills` trains what is not on record and writes `results.json`, `tables.md`
and a figure.

    __main__.py   question, flags, and the order of the stages
    arms.py       models, skills and presets
    measures.py   the record of a run
    results.py    comparisons, tables and the figure
"""
