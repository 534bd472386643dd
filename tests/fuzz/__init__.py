"""Mutated .slim files. What a decoder does with them: a picture or `InvalidFile`, soon, and in little memory.

PYTHONPATH=tests python -m fuzz --files 20000 --seed 1       from the repository's root; --only N repeats one file
"""
