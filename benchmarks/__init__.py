"""Benchmarks: `python -m benchmarks` prints one table of figures, each beside its limit.

Each figure runs its contenders (the service, its limit, an earlier commit, peers) in interleaved rounds, so that a
change in the machine's speed affects all of them. The figure to steer by is CPU time, in which processes that have
ended are counted; wall times on shared cores measure the neighbours.
"""
