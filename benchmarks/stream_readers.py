"""Many connections that read one stream; run by file in a process of its own, so that reading delays no other load.

`python -I -S stream_readers.py PORT PATH CONNECTIONS` prints "ready" once each stream has begun, and reads until its
stdin is closed. Then it prints a JSON document: bytes read, CPU seconds, and the delays of the time stamps
(nanoseconds of the wall clock, 19 digits) in what every `_SAMPLED`th connection received.
"""

import json
import re
import selectors
import socket
import sys
import time

_SAMPLED = 20
_STAMP = re.compile(rb"(?<!\d)1\d{18}(?!\d)")


def main(port: int, path: str, connections: int) -> None:
    """Read the streams."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
    buffer = bytearray(1 << 18)
    selector = selectors.EpollSelector()
    delays: list[int] = []
    total = 0
    for number in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        if not (head := connection.recv(1 << 16)).startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(head.decode())
        selector.register(connection, selectors.EVENT_READ, number % _SAMPLED == 0)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    print("ready", flush=True)
    cpu_before = time.process_time()
    while True:
        for key, _ in selector.select():
            if not isinstance(key.fileobj, socket.socket):
                print(json.dumps({"bytes": total, "cpu": time.process_time() - cpu_before, "delays": delays}))
                return
            received = key.fileobj.recv_into(buffer)
            if not received:
                raise ConnectionError("a stream has ended")
            total += received
            if key.data:
                now = time.time_ns()
                delays += [now - int(stamp) for stamp in _STAMP.findall(buffer, 0, received)]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
