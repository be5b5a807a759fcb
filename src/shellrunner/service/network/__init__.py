"""The addresses of the service: binding them, listening, TLS, Unix sockets.

Used by the composition root. Must not know jobs or the history.
"""
