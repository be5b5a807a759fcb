"""Peers: other programs that run commands, each in its own way, beside an empty job of ours.

They are installed into a directory by `python -m benchmarks --install-peers DIR`; one that is not there is a line of
the table that says so.
"""

from benchmarks.peers import command_queues, shell2http, task_queues, webhook
from benchmarks.peers.installation import Peer

PEERS: tuple[Peer, ...] = (*webhook.PEERS, *shell2http.PEERS, *command_queues.PEERS, *task_queues.PEERS)
