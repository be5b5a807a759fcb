"""The limit of a stream: bytes that are already framed, copied to a socket.

Run by file as `python bare_stream.py SIZE`. Prints its port, and sends SIZE bytes and a last event to each client.
"""

import socket
import sys

# A frame as the service sends it: an event of 64 KiB of text.
_EVENT = b'id: 123456789\nevent: stdout\ndata: {"text":"' + b"a line of text\\n" * 4096 + b'"}\n\n'
_LAST = b"id: end\nevent: done\ndata: {}\n\n"


def main(size: int) -> None:
    """Serve clients, one after the other."""
    chunk = _EVENT * 4
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                for _ in range(size // len(chunk) + 1):
                    connection.sendall(chunk)
                connection.sendall(_LAST)


if __name__ == "__main__":
    main(int(sys.argv[1]))
