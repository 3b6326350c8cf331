"""Fuzzers: each module has `run_case(seed)`, which draws an input from a seed and checks that the end is clean.

`run_case` returns a short label of the outcome. It raises an error if the end is not clean. Examples are an error that
is not of padless, and a change of the state of the process. `scripts/fuzz NAME --cases N` runs many seeds.
"""
