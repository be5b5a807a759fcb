"""Examples of request bodies in the OpenAPI document.

Used by the other modules of this package; tests check each against its schema. Must not know any route.
"""

from typing import Any, Final

# By the name of the body's type.
BODIES: Final[dict[str, dict[str, Any]]] = {
    "JobSpec": {
        "copy": {"summary": "A line for the shell", "value": {"command": "cp  /tmp/file /mnt/nfs/"}},
        "list": {
            "summary": "A program and its arguments, without a shell",
            "value": {"argv": ["ls", "-lah", "/etc"]},
        },
        "cyrillic": {
            "summary": "Any script, in and out",
            "value": {"command": "echo Привет, $NAME", "env": {"NAME": "мир"}, "labels": {"team": "эксплуатация"}},
        },
        "careful": {
            "summary": "With a timeout, limits and retries",
            "value": {
                "command": "ifconfig",
                "timeout": 10,
                "priority": 5,
                "limits": {"output_bytes": 65536},
                "retries": {"max": 3, "delay": 10, "on": ["exited", "timed_out"]},
            },
        },
    },
    "JobBatch": {
        "two": {
            "summary": "Two jobs, both or none",
            "value": {
                "jobs": [{"command": "make docs"}, {"argv": ["make", "test"], "queue": "default", "priority": 5}]
            },
        },
    },
    "JobPatch": {
        "hold": {"summary": "Keep it from starting", "value": {"held": True}},
        "urgent": {"summary": "Move it forward", "value": {"priority": 10, "labels": {"urgent": "yes"}}},
        "now": {"summary": "Start it as soon as there is room", "value": {"after": None, "start_at": None}},
    },
    "AgainRequest": {
        "same": {"summary": "As it was", "value": {}},
        "longer": {"summary": "With more time and its variable", "value": {"timeout": 600, "env": {"NAME": "мир"}}},
    },
    "ResizeRequest": {"wide": {"summary": "A wide terminal", "value": {"rows": 50, "columns": 200}}},
    "QueueChange": {"one": {"summary": "One job at a time", "value": {"max_running": 1, "max_queued": 100}}},
    "SignalRequest": {"reload": {"summary": "Reload the configuration", "value": {"signal": "SIGHUP"}}},
}
