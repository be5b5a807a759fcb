"""The headers of a callback, with its signature, as in Standard Webhooks 1.0.

Pure functions; https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. Must not
know what is in the body.
"""

import hmac
from base64 import b64decode, b64encode


def webhook_headers(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of one try.

    `timestamp` is the time of the try, in seconds since the epoch; `message_id` contains no dot.
    """
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "shellrunner",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{_signature(f'{message_id}.{timestamp}.'.encode() + body, secret)}",
    }


def _signature(content: bytes, secret: str) -> str:
    key = b64decode(secret.removeprefix("whsec_"))
    return b64encode(hmac.digest(key, content, "sha256")).decode()
