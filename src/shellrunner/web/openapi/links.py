"""OpenAPI links: which operation a client can call next with what a response holds.

Used by the other modules of this package. Must not know how responses are made.
"""

from typing import Any, Final


def _to(operation: str, source: str = "$response.body#/job_id") -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"id": source}}


def _to_queue(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"name": "$response.body#/queues/0/queue"}}


def _to_worker(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"host": "$response.body#/workers/0/host"}}


def _to_attempt(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"id": "$response.body#/job_id", "number": "1"}}


# By operation and status.
LINKS: Final[dict[str, dict[str, Any]]] = {
    "post-jobs": {
        "202": {
            "job": _to("get-jobs-id"),
            "status": _to("get-statuses-id"),
            "events": _to("get-statuses-id-events"),
            "output": _to("get-statuses-id-output"),
            "line": _to("get-statuses-id-output-line"),
            "result": _to("get-results-id"),
            "stdout": _to("get-results-id-stdout"),
            "stderr": _to("get-results-id-stderr"),
            "signal": _to("post-jobs-id-signal"),
            "stdin": _to("post-jobs-id-stdin"),
            "attempt": _to_attempt("get-results-id-attempts-number"),
            "attempt-stdout": _to_attempt("get-results-id-attempts-number-stdout"),
            "attempt-stderr": _to_attempt("get-results-id-attempts-number-stderr"),
            "cancel": _to("post-jobs-id-cancel"),
            "edit": _to("patch-jobs-id"),
            "again": _to("post-jobs-id-again"),
            "delete": _to("delete-jobs-id"),
            "delete-result": _to("delete-results-id"),
        }
    },
    "post-jobs-batch": {
        "202": {
            "job": _to("get-jobs-id", "$response.body#/jobs/0/job_id"),
            "status": _to("get-statuses-id", "$response.body#/jobs/0/job_id"),
            "result": _to("get-results-id", "$response.body#/jobs/0/job_id"),
        }
    },
    "get-queues": {
        "200": {
            "queue": _to_queue("get-queues-name"),
            "pause": _to_queue("post-queues-name-pause"),
            "resume": _to_queue("post-queues-name-resume"),
        }
    },
    "get-workers": {
        "200": {
            "worker": _to_worker("get-workers-host"),
            "drain": _to_worker("post-workers-host-drain"),
            "resume": _to_worker("post-workers-host-resume"),
        }
    },
    "post-jobs-id-cancel": {"202": {"status": _to("get-statuses-id"), "result": _to("get-results-id")}},
    "get-statuses-id": {"303": {"result": _to("get-results-id")}},
}
