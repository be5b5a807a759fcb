"""Job output and status changes, read and framed once for all clients that follow them."""
