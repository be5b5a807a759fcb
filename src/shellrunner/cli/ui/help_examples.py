"""Examples for the help of each verb. Text only; each is a call that works."""

from typing import Final

# By verb: calls without the name of the program, each with what it does.
EXAMPLES: Final = {
    "run": (
        ("run 'make -j4 && ./deploy'", "a line for the shell"),
        ("run -e DEBUG=1 --timeout 10m ./backup /home", "words without a shell"),
        ("run --stdin - sort < names", "input from here"),
    ),
    "submit": (
        ("submit --name nightly --at 03:00 ./backup", "tonight"),
        ("submit --after last --retries 3 --retry-delay 1m ./publish", "if the last one succeeds"),
        ("submit --limit memory=2G --limit cpu=1h -o 'template={job_id}' ./train", ""),
    ),
    "attach": (("attach 12", "type into the terminal of a job"),),
    "batch": (
        ("batch commands.txt", "one command a line"),
        ("batch --queue convert -", "from a pipe: ls *.wav | sed 's/^/flac /'"),
    ),
    "again": (
        ("again", "the last job that is done"),
        ("again --failed --filter queue=convert", "all that failed"),
        ("again --edit 12", "after changes in $EDITOR"),
    ),
    "ps": (
        ("ps -a -n 20", "the latest, with those that are done"),
        ("ps --filter label=team:web --columns id,state,reason,command", ""),
        ("ps --watch", "until Ctrl-C"),
    ),
    "top": (("top --sort memory", "until Ctrl-C"), ("top --once -o json", "for programs")),
    "show": (("show", "the last job"), ("show -o 'template={result.exit_code}' 12", "")),
    "logs": (
        ("logs -f", "follow the last job"),
        ("logs -n 100 --stderr 12", "the end of its errors"),
        ("logs --attempt 1 12", "before the retry"),
    ),
    "wait": (
        ("wait 12-15 && echo all succeeded", ""),
        ("wait --any 12 13", "the first of them"),
        ("wait --filter label=build:17", ""),
    ),
    "cancel": (("cancel 12-15", ""), ("cancel --filter queue=convert", "after confirmation")),
    "signal": (("signal HUP 12", "reload"), ("signal --tree USR1 12", "to all of its processes")),
    "send": (("send yes 12", "answer a question"), ("send - 12 < file", ""), ("send --end '' 12", "end its input")),
    "pause": (("pause 12", ""), ("pause --filter queue=convert", "")),
    "resume": (("resume 12", ""), ("resume --all", "")),
    "hold": (("hold 12", ""), ("submit --hold ./later", "held from the beginning")),
    "release": (("release 12-15", ""), ("release --filter label=build:17", "")),
    "edit": (
        ("edit --priority 10 --queue fast 12", ""),
        ("edit --no after 12", "without its dependencies"),
        ("edit 12", "in $EDITOR"),
    ),
    "rm": (("rm 12-15", ""), ("rm --output-only 12", "keep the job")),
    "prune": (("prune --filter completed_before=2026-01-01T00:00:00Z", ""), ("prune -y --filter exit_code=0", "")),
    "queues": (
        ("queues create convert --max-running 2", ""),
        ("queues set convert --max-running none", "no limit of its own"),
        ("queues pause convert", ""),
    ),
    "hosts": (("hosts", ""), ("hosts --watch", "until Ctrl-C"), ("hosts rm build-3", "it was scrapped")),
    "drain": (("drain --wait build-3", "then its server can be stopped"),),
    "undrain": (("undrain build-3", ""),),
    "serve": (("serve", "for you alone, on this machine"), ("serve --config config.toml", "")),
    "worker": (("worker --config /etc/shellrunner/config.toml", "on each further host"),),
    "migrate": (
        ("migrate --config /etc/shellrunner/config.toml", "before the first start, and at an upgrade"),
        ("migrate --after-restore --config /etc/shellrunner/config.toml", "before the first start on a backup"),
    ),
    "backup": (("backup /srv/backups/monday", ""),),
    "import": (("import --config /etc/shellrunner/config.toml /var/lib/shellrunner", ""),),
    "restore": (("restore --set-aside /srv/backups/monday", ""),),
    "token": (("token create ci --scope run --scope read --expires 90d", ""),),
    "keepers": (("keepers", ""), ("keepers end 3", "")),
    "install": (("install", "as root"), ("install --user", "for you alone")),
    "uninstall": (("uninstall --dry-run", ""),),
    "unit": (
        ("unit --config /etc/shellrunner/config.toml", ""),
        ("unit --worker --config /etc/shellrunner/config.toml", "for a host that only runs jobs"),
    ),
    "completion": (("completion bash", ""),),
}


def epilog(verb: str) -> str:
    """Return the examples of a verb as the last part of its help, in the markup of click."""
    rows = [(f"shellrunner {call}", what) for call, what in EXAMPLES[verb]]
    width = max((len(call) for call, what in rows if what), default=0)
    lines = [f"  {call.ljust(width)}  # {what}" if what else f"  {call}" for call, what in rows]
    return "\n".join(["\b", "Examples:", *lines])
