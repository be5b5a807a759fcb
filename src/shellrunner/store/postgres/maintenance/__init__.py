"""What is done to a database beside the nodes: asked before they start, filled by `shellrunner import`.

An import is one transaction: the rows by COPY as they are, then what this back end has beside them. Must not know
where rows come from: `history_import.SourceHistory` is what it asks for.
"""
