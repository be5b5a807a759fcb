"""The model as JSON and the output as server-sent events: pure functions, for the server and for its client.

Owned by nobody and used by `web` (later by `client`). Must not know sockets, stores or HTTP.
"""
