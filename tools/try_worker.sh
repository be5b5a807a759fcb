#!/usr/bin/env bash
# Try the guide docs/how-to/several-hosts.md in two booted Debians: PostgreSQL with a node that has the API, and a worker.
#
# Usage: tools/try_worker.sh [WHEEL]         needs what tools/try_install.sh needs, and ip(8); ROOT (with PostgreSQL) and
# WORK as there. The two machines have a network of their own, which no other one is in.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/booted_debian.sh
# shellcheck disable=SC2034
PACKAGES+=,postgresql,openssl
GUIDE=docs/how-to/several-hosts.md

# block PATTERN: the first block of the guide that has this.
block() {
    python3 - "$GUIDE" "$1" <<'PYTHON'
import re, sys
blocks = re.findall(r"^```\w*\n(.*?)^```", open(sys.argv[1]).read(), re.MULTILINE | re.DOTALL)
print(next(each for each in blocks if re.search(sys.argv[2], each, re.MULTILINE)), end="")
PYTHON
}
api() {
    on api-1 "$@"
}
worker() {
    on build-1 "$@"
}
postgres() {
    api runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 "$@"
}
main_pid() {
    worker systemctl show -p MainPID --value shellrunner-worker
}
# state NAME: the state of a host in `shellrunner hosts`.
state() {
    api shellrunner hosts | awk -v name="$1" '$1 == name { print $2, $3 }'
}
# until_true SECONDS COMMAND...: wait until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not in time: $*"
        sleep 0.2
    done
}
is_in_state() {
    case $(state "$1") in "$2"*) ;; *) return 1 ;; esac
}
is_running() {
    [ "$(api shellrunner show "$1" -o 'template={status.state}')" = running ]
}

waits_for_database() {
    worker systemctl show -p StatusText shellrunner-worker | grep 'waiting for PostgreSQL'
}
# The machines see each other, and nothing else. The first one has its address also while the other does not run.
connect_hosts() {
    nsenter -t "$(leader api-1)" -n ip address replace 10.0.0.11/32 dev lo
    nsenter -t "$(leader api-1)" -n ip link add host0 type veth peer name host0 netns "$(leader build-1)"
    nsenter -t "$(leader api-1)" -n sh -c 'ip address add 10.0.0.11/24 dev host0 && ip link set host0 up'
    nsenter -t "$(leader build-1)" -n sh -c 'ip address add 10.0.0.21/24 dev host0 && ip link set host0 up'
}

make_root
install_program "${1:-}" '[cluster]'
printf '127.0.0.1 localhost\n10.0.0.11 api-1 db.example.org\n10.0.0.21 build-1\n' >"$root/etc/hosts"
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=db.example.org -addext subjectAltName=DNS:db.example.org \
    -keyout "$work/database.key" -out "$work/database-ca.pem" 2>"$work/openssl.log"
block '^\[store\]' >"$work/shared.toml"
block '^hostssl' >"$work/pg_hba.conf"
block '^postgresql://' | sed 's/PASSWORD/change-me-too/' >"$work/database-url"
mkdir -p "$root/etc/shellrunner"
install -m 644 "$work/database-ca.pem" "$root/etc/shellrunner/database-ca.pem"
install -m 600 "$work/database-url" "$root/etc/shellrunner/database-url"
root_of_worker=$work/worker
cp -a "$root" "$root_of_worker"
rm "$root_of_worker/etc/systemd/system/multi-user.target.wants/postgresql.service"
cp "$work/shared.toml" "$root_of_worker/etc/shellrunner/config.toml"
sed 's/^name = .*/name = "api-1"/' "$work/shared.toml" >"$root/etc/shellrunner/config.toml"
block '^\[server\]' | sed 's/  #.*//' >>"$root/etc/shellrunner/config.toml"
sed 's/shellrunner:change-me-too/shellrunner_owner:change-me/' "$work/database-url" >"$root/root/database-url-of-owner"
chmod 600 "$root/root/database-url-of-owner"

boot api-1 "$root"
boot build-1 "$root_of_worker"
connect_hosts

step "1. the database"
configuration=/etc/postgresql/15/main
cat "$work/pg_hba.conf" >>"$root$configuration/pg_hba.conf"
install -m 600 -o "$(stat -c %u "$root$configuration")" -g "$(stat -c %g "$root$configuration")" "$work/database.key" \
    "$work/database-ca.pem" "$root$configuration/"
printf '%s\n' "listen_addresses = '*'" "ssl_cert_file = '$configuration/database-ca.pem'" \
    "ssl_key_file = '$configuration/database.key'" >"$root$configuration/conf.d/shellrunner.conf"
api systemctl restart postgresql || fail "PostgreSQL"
block '^CREATE ROLE' >"$root/srv/roles.sql"
block '^CREATE EXTENSION' >"$root/srv/privileges.sql"
postgres -f /srv/roles.sql || fail "the roles"
postgres -d shellrunner -f /srv/privileges.sql || fail "the privileges"

step "2. the tables"
api sh -ec "$(block 'shellrunner migrate$')" || fail "migrate"

step "3. a node with the API"
token=$(api /opt/shellrunner/bin/shellrunner install) || fail "install"
[[ $token == srt_* ]] || fail "no token"
expect "open" state api-1
api mkdir -p /etc/systemd/system/shellrunner.service.d
block '^ExecStart=$' >"$root/etc/systemd/system/shellrunner.service.d/override.conf"
api systemctl daemon-reload
api systemctl restart shellrunner || fail "the drop-in"
expect "API only" state api-1
expect "nothing to do" api shellrunner install

step "4. a worker"
expect "run systemctl enable --now" worker /opt/shellrunner/bin/shellrunner install --worker --dry-run
worker /opt/shellrunner/bin/shellrunner install --worker || fail "install --worker"
expect "nothing to do" worker shellrunner install --worker
worker ls -ld /etc/shellrunner /etc/shellrunner/config.toml /etc/shellrunner/database-url /var/lib/shellrunner

step "5. it works"
api shellrunner hosts
expect "open" state build-1
expect "build-1" api shellrunner run --clean hostname
expect "shellrunner" api shellrunner run --clean -- id -un

step "a restart of the worker, with a job that runs"
before=$(main_pid)
job=$(api shellrunner submit -- sh -c 'echo $$; sleep 6; echo done')
until_true 10 is_running "$job"
worker systemctl restart shellrunner-worker
[ "$(main_pid)" != "$before" ] || fail "the same process"
expect "done" api shellrunner logs -f "$job"
expect "exited" api shellrunner show "$job"

step "kill -9 of the worker's main process, with a job that runs"
job=$(api shellrunner submit -- sh -c 'sleep 4; echo done; exit 7')
until_true 10 is_running "$job"
worker systemctl kill --kill-who=main -s KILL shellrunner-worker
expect "done" api shellrunner logs -f "$job"
until_true 30 worker systemctl is-active --quiet shellrunner-worker
expect "7" api shellrunner show "$job"
expect "NRestarts=1" worker systemctl show -p NRestarts shellrunner-worker

step "a stop of an idle worker"
until_true 10 is_in_state build-1 open
worker systemctl stop shellrunner-worker
expect "stopped" state build-1
worker systemctl start shellrunner-worker # which sets NRestarts to 0
until_true 10 is_in_state build-1 open

step "PostgreSQL is stopped for a while, with a job that runs"
api systemctl restart shellrunner
job=$(api shellrunner submit -- sh -c 'sleep 2; echo done')
until_true 10 is_running "$job"
api systemctl stop postgresql
sleep 5
api systemctl start postgresql
until_true 30 is_in_state build-1 open # until then the answer may be 503
expect "done" api shellrunner logs -f "$job"
expect "build-1" api shellrunner run --clean hostname
expect "NRestarts=0" worker systemctl show -p NRestarts shellrunner-worker
expect "NRestarts=0" api systemctl show -p NRestarts shellrunner

step "the worker is started before PostgreSQL"
api systemctl stop postgresql
worker systemctl restart --no-block shellrunner-worker
until_true 30 waits_for_database
api systemctl start postgresql
until_true 30 worker systemctl is-active --quiet shellrunner-worker
until_true 30 is_in_state build-1 open
expect "build-1" api shellrunner run --clean hostname
expect "NRestarts=0" worker systemctl show -p NRestarts shellrunner-worker

step "the host of the worker is shut down, and boots"
halt build-1
expect "stopped" state build-1
start_machine build-1 "$root_of_worker" # without a network the worker waits for PostgreSQL
connect_hosts
until_true 30 is_in_state build-1 open
expect "build-1" api shellrunner run --clean hostname

step "the unit as it is printed"
worker shellrunner uninstall || fail "uninstall"
expect "stopped" state build-1
worker sh -ec '/opt/shellrunner/bin/shellrunner unit --worker --user shellrunner --config /etc/shellrunner/config.toml \
    > /etc/systemd/system/shellrunner-worker.service
systemctl daemon-reload && systemctl enable --now shellrunner-worker' || fail "unit --worker"
expect "build-1" api shellrunner run --clean hostname

step "uninstall, with a job that runs"
job=$(api shellrunner submit -- sh -c 'sleep 8; echo done')
until_true 10 is_running "$job"
worker /opt/shellrunner/bin/shellrunner uninstall
expect "commands still run" worker /opt/shellrunner/bin/shellrunner uninstall --purge
until_true 30 is_in_state build-1 unreachable
worker /opt/shellrunner/bin/shellrunner install --worker || fail "install --worker"
expect "done" api shellrunner logs -f "$job"
worker /opt/shellrunner/bin/shellrunner uninstall --purge || fail "purge"
for path in /etc/shellrunner/database-url /var/lib/shellrunner /etc/systemd/system/shellrunner-worker.service; do
    ! worker test -e "$path" || fail "$path is still there"
done
expect "stopped" state build-1
api shellrunner hosts rm --yes build-1 || fail "hosts rm"
step "everything works"
