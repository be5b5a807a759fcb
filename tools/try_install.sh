#!/usr/bin/env bash
# Try `shellrunner install` in a booted Debian: as root, with a user's token, again, and removed.
#
# Usage: tools/try_install.sh [WHEEL]        needs root, systemd-nspawn and debootstrap, Debian's mirror (MIRROR) and
# PyPI. It is not part of the tests, since it takes minutes. ROOT and WORK: see tools/booted_debian.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/booted_debian.sh

make_root
install_program "${1:-}"
boot

step "a dry run"
expect "run systemctl enable --now" inside /opt/shellrunner/bin/shellrunner install --dry-run
step "install"
token=$(inside /opt/shellrunner/bin/shellrunner install) || fail "install"
[[ $token == srt_* ]] || fail "no token"
step "the same again"
expect "nothing to do" inside shellrunner install
step "as root"
expect "uid=" inside shellrunner run -- id
expect "shellrunner" inside shellrunner run -- id -un
step "as an ordinary user: without a token, and with one"
expect "token" alice shellrunner run -- id
expect "shellrunner" alice SHELLRUNNER_TOKEN="$token" shellrunner run -- id -un
expect "shellrunner" alice SHELLRUNNER_TOKEN="$token" SHELLRUNNER_URL=http://127.0.0.1:8000 SHELLRUNNER_SERVER_USER=shellrunner shellrunner run -- id -un
step "another token, as its message advises"
second=$(inside sh -c 'shellrunner token create ci 2>>/etc/shellrunner/tokens.toml')
inside systemctl reload shellrunner || fail "reload"
sleep 1
expect "shellrunner" alice SHELLRUNNER_TOKEN="$second" shellrunner run -- id -un
step "modes"
inside ls -ld /etc/shellrunner /etc/shellrunner/config.toml /etc/shellrunner/tokens.toml /var/lib/shellrunner /var/lib/shellrunner/home /root/.config/shellrunner/client.toml
step "a restart, with a job that runs"
job=$(inside shellrunner submit -- sh -c 'sleep 8; echo done')
sleep 1
inside systemctl restart shellrunner
expect "done" inside shellrunner logs -f "$job"
step "the addresses change"
inside sed -i 's/localhost:8000/localhost:8001/' /etc/shellrunner/config.toml
note=$(inside shellrunner install 2>&1) || fail "install with another address"
printf '%s\n' "$note"
commands=${note#*to apply them: }
[ "$commands" != "$note" ] || fail "no note about the changed units"
inside sh -ec "$commands" || fail "$commands"
expect "shellrunner" alice SHELLRUNNER_TOKEN="$token" SHELLRUNNER_SERVER_USER=shellrunner shellrunner run --server http://127.0.0.1:8001 -- id -un
expect "nothing to do" inside shellrunner install
step "the service starts with the first connection"
inside systemctl stop shellrunner.service
expect "uid=" inside shellrunner run -- id
step "uninstall, with a job that runs"
job=$(inside shellrunner submit -- sleep 15)
sleep 1
inside shellrunner uninstall
expect "commands still run" inside /opt/shellrunner/bin/shellrunner uninstall --purge
sleep 16
step "purge"
inside /opt/shellrunner/bin/shellrunner uninstall --purge || fail "purge"
for path in /etc/shellrunner /var/lib/shellrunner /etc/systemd/system/shellrunner.service /usr/local/bin/shellrunner; do
    ! inside test -e "$path" || fail "$path is still there"
done
expect "no such user" inside id shellrunner
step "for one user"
inside loginctl enable-linger alice
sleep 2
as_alice() {
    alice XDG_RUNTIME_DIR="/run/user/$(inside id -u alice)" "$@"
}
as_alice /opt/shellrunner/bin/shellrunner install --user || fail "install --user"
expect "alice" as_alice /opt/shellrunner/bin/shellrunner run -- id -un
expect "nothing to do" as_alice /opt/shellrunner/bin/shellrunner install --user
as_alice /opt/shellrunner/bin/shellrunner uninstall --user --purge || fail "uninstall --user"
step "everything works"
