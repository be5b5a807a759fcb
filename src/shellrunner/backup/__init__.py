"""Backups of a state directory, made beside a running server, and their restoration while no server runs.

A backup is a directory: `manifest.json` (what it is, and the size and SHA-256 of each file), `history.db`, and
`runs/` with the output beyond that. It has no slots: they belong to processes. It does not exist under its name until
it is complete and synced.

    settled files          copied first, without a moment: they never change, but may be deleted
    history                copied as of one moment
    running jobs           are `lost` in the copy, with what they had written
    other files            copied; a job that is deleted before that is deleted from the copy, too
    manifest, sync, rename
"""
