"""Side-by-side figures: `python -m benchmarks` lists them, `python -m benchmarks NAME` runs one.

Each public module here has ``run(full: bool) -> Result``; the first line of its docstring is its entry in the list.
"""
