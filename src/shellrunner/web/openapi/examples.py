"""What the OpenAPI document says beyond types: words, examples, and which answer leads where.

Used by the OpenAPI document; read by people. Must not know how it is built.
"""

from typing import Any, Final

INTRODUCTION: Final = (
    "Runs shell commands for other programs: submit over HTTP, poll or follow live, fetch the result.\n\n"
    "Witnessed or unknown: once a job is accepted with 202, it is in the history exactly once; each attempt is "
    "started at most once; its ending is what the kernel reported to a process that watched it, or the word `lost` "
    "with the evidence, never an invented number.\n\n"
    "One id serves a job, its status and its result. HEAD goes wherever GET does, OPTIONS answers 204 with `Allow`, "
    "another method 405 (`/problems/method-not-allowed`); they are not listed for each path. JSON is UTF-8, times "
    "are RFC 3339 in UTC, durations are seconds. Unknown parameters and keys are refused. Every answer has "
    "`X-Content-Type-Options: nosniff`, `Referrer-Policy: no-referrer` and `Cross-Origin-Resource-Policy: "
    "same-origin`; every error is a problem (RFC 9457)."
)

TAGS: Final = {
    "jobs": "What is to be run.",
    "statuses": "How far it is, and what it writes meanwhile.",
    "results": "How it ended, and what it wrote.",
    "queues": "How much waits, and holding it.",
    "service": "The service itself.",
}

# Of the bodies that routes take, by the name of the type.
BODIES: Final[dict[str, dict[str, Any]]] = {
    "JobSpec": {
        "copy": {"summary": "a line for the shell", "value": {"command": "cp  /tmp/file /mnt/nfs/"}},
        "list": {"summary": "words without a shell", "value": {"argv": ["ls", "-lah", "/etc"]}},
        "cyrillic": {
            "summary": "any script, in and out",
            "value": {"command": "echo Привет, $NAME", "env": {"NAME": "мир"}, "labels": {"team": "эксплуатация"}},
        },
        "careful": {
            "summary": "with limits of its own, and later attempts",
            "value": {
                "command": "ifconfig",
                "timeout": 10,
                "priority": 5,
                "limits": {"output_bytes": 65536},
                "retries": {"max": 3, "delay": 10, "on": ["exited", "timed_out"]},
            },
        },
    },
    "SignalRequest": {"reload": {"summary": "read the configuration anew", "value": {"signal": "SIGHUP"}}},
}


def _to(operation: str, source: str = "$response.body#/job_id") -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"id": source}}


def _pause(verb: str) -> dict[str, Any]:
    return {"operationId": f"post-queues-name-{verb}", "parameters": {"name": "$response.body#/queues/0/queue"}}


def _attempt(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"id": "$response.body#/job_id", "number": "1"}}


# Where an answer leads: by operation and status.
LINKS: Final[dict[str, dict[str, Any]]] = {
    "post-jobs": {
        "202": {
            "job": _to("get-jobs-id"),
            "status": _to("get-statuses-id"),
            "events": _to("get-statuses-id-events"),
            "output": _to("get-statuses-id-output"),
            "result": _to("get-results-id"),
            "stdout": _to("get-results-id-stdout"),
            "stderr": _to("get-results-id-stderr"),
            "signal": _to("post-jobs-id-signal"),
            "stdin": _to("post-jobs-id-stdin"),
            "attempt": _attempt("get-results-id-attempts-number"),
            "attempt-stdout": _attempt("get-results-id-attempts-number-stdout"),
            "attempt-stderr": _attempt("get-results-id-attempts-number-stderr"),
            "cancel": _to("post-jobs-id-cancel"),
            "delete": _to("delete-jobs-id"),
            "delete-result": _to("delete-results-id"),
        }
    },
    "get-queues": {"200": {"pause": _pause("pause"), "resume": _pause("resume")}},
    "post-jobs-id-cancel": {"202": {"status": _to("get-statuses-id"), "result": _to("get-results-id")}},
    "get-statuses-id": {"303": {"result": _to("get-results-id")}},
}
