"""Peers side by side: what other runtimes and the naive way need for the same X-rays. No part of the package.

`make benchmarks`, or `python -m benchmarks`. Stages: `networks` and `peer_files` make each contender's file,
`environments` installs each runtime alone, `measure` lets all take turns, `page` writes docs/benchmarks.md.
Imports nothing here: the processes that are measured load this package.
"""
