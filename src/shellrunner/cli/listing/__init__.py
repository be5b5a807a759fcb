"""Jobs as they are listed: once, as a table or as documents, or in a table that is kept up to date.

Must not know verbs.
"""
