"""The embedded, fictional and harmless world on which the pipeline shows that it makes a small model safer.

`policy` says what the town forbids and finds it in any text; `world` generates seeds, look-alikes,
instructions and labelled answers; `judge` is the ground truth on a (prompt, response) pair; `export` writes
the lists as JSONL.
"""
