"""Output of jobs in the database: sent there by the node that runs a job, read from there by all the others.

keeper ──> slot, spill files of its host ── cutting, sender ──> chunks ── chunk_source ──> readers on other nodes
"""
