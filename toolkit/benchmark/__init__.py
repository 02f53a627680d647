"""`cxr-edge benchmark`: how long each stage takes, beside the naive way and other runtimes, measured in one run.

`measure.run_benchmark` measures, `table.render` shows. Imports nothing here: the cold-start process loads this package.
"""
