"""Verbs that submit jobs. Must not know how jobs are listed or changed."""
