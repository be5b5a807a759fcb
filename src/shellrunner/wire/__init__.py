"""The model as JSON and output as server-sent events: pure functions, for the server and for its client.

Used by `web`, `access`, `callbacks` and `client`; owned by none of them. Must not know sockets, stores or HTTP.
"""
