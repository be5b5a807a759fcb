#!/usr/bin/env bash
# Try the audit log in a booted Debian: under the unit of `shellrunner install` the journal loses no line of accepted
# requests, nor the count of 90,000 refused ones; with journald's own limit it does, and the start logs a warning.
#
# Usage: tools/try_journal.sh [WHEEL]        needs root, systemd-nspawn and debootstrap, Debian's mirror (MIRROR) and
# PyPI. tests/faults/test_journal.py runs it with `-m soak`. ROOT and WORK: see tools/booted_debian.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/booted_debian.sh

REFUSED=90000
ACCEPTED=1000 # of two lines each, within the 30 s of journald's interval

make_root
install_program "${1:-}"
mkdir -p "$root/etc/systemd/journald.conf.d"
# By default the limit is 10,000 lines in 30 s, more where much of the disk is free. A low one shows the same sooner.
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=30s\nRateLimitBurst=100\n' \
    >"$root/etc/systemd/journald.conf.d/limit.conf"
cat >"$root/srv/flood.py" <<'PYTHON'
"""Send so many requests, a hundred at a time; count the responses by status."""
import collections, json, re, socket, sys

number, statuses = int(sys.argv[1]), collections.Counter()
token = sys.argv[2] if len(sys.argv) > 2 else ""
body = json.dumps({"command": "echo hello", "start_at": "2100-01-01T00:00:00Z"})
head = "POST /api/jobs HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
bearer = f"Authorization: Bearer {token}\r\n" if token else ""
request = (head % ("127.0.0.1:8000" if token else "evil.test", len(body), bearer) + body).encode()
while statuses.total() < number:
    with socket.create_connection(("127.0.0.1", 8000)) as connection:
        connection.sendall(request * min(100, number - statuses.total()))
        connection.shutdown(socket.SHUT_WR)
        statuses.update(re.findall(rb"HTTP/1.1 (\d+)", b"".join(iter(lambda: connection.recv(65536), b""))))
print(*(f"{status.decode()}:{count}" for status, count in statuses.items()))
PYTHON
cat >"$root/srv/count.py" <<'PYTHON'
"""Count the lines of the audit log on standard input, those that were suppressed as well."""
import collections, json, sys

counts = collections.Counter()
for text in sys.stdin:
    try:
        line = json.loads(text)
    except ValueError:  # of systemd itself
        continue
    if line.get("logger") == "shellrunner.audit":
        counts[line["event"]] += 1
        counts["refused"] += line["lines"] if line["event"] == "lines suppressed" else line["event"] == "rejected"
print(*(f"{event}={counts[event]}" for event in ("accepted", "response", "rejected", "refused")))
PYTHON
boot

# journal SINCE: the counts of the audit log since then.
journal() {
    inside journalctl --sync
    inside sh -c "journalctl -u shellrunner -o cat --since '$1' | python3 /srv/count.py"
}
now() {
    inside date '+%Y-%m-%d %H:%M:%S'
}
# limit VALUE: restart the service with another LogRateLimitIntervalSec=; empty: the unit's own.
limit() {
    inside mkdir -p /etc/systemd/system/shellrunner.service.d
    inside sh -c "echo '[Service]${1:+
LogRateLimitIntervalSec=$1}' >/etc/systemd/system/shellrunner.service.d/limit.conf"
    inside systemctl daemon-reload
    inside systemctl restart shellrunner
}

token=$(inside /opt/shellrunner/bin/shellrunner install) || fail "install"
step "the unit: no warning, and no line is lost beside $REFUSED refused requests"
since=$(now)
limit ""
! inside sh -c "journalctl -u shellrunner -o cat --since '$since' | grep 'journald drops'" || fail "a warning"
expect "421:$REFUSED" alice python3 /srv/flood.py "$REFUSED"
expect "202:$ACCEPTED" inside python3 /srv/flood.py "$ACCEPTED" "$token"
inside systemctl restart shellrunner # which writes the counts
counts=$(journal "$since")
echo "$counts"
case $counts in "accepted=$ACCEPTED response=$ACCEPTED "*" refused=$REFUSED") ;; *) fail "lines are missing: $counts" ;; esac
rejected=${counts#*rejected=}
[ "${rejected% *}" -lt 200 ] || fail "too many lines: $counts"
for value in 0 30s; do
    step "LogRateLimitIntervalSec=$value: a warning, and lines are lost"
    sleep 1
    since=$(now)
    limit "$value"
    expect "202:$ACCEPTED" inside python3 /srv/flood.py "$ACCEPTED" "$token"
    counts=$(journal "$since")
    echo "$counts"
    case $counts in "accepted=$ACCEPTED "*) fail "no line was lost, so this shows nothing" ;; esac
    expect "journald drops lines of the audit log" inside journalctl -u shellrunner -o cat --since "$since"
done
step "everything works"
