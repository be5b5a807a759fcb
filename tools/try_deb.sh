#!/usr/bin/env bash
# Try the Debian package in a booted Debian: install, use, upgrade under a running job, remove under one, purge.
#
# Usage: tools/try_deb.sh DEB NEWER_DEB      needs what tools/try_install.sh needs; ROOT and WORK as there
set -euo pipefail
cd "$(dirname "$0")/.."
first=$(realpath "$1") second=$(realpath "$2")
. tools/booted_debian.sh

make_root
mkdir -p "$root/srv/1" "$root/srv/2"
cp "$first" "$root/srv/1/"
cp "$second" "$root/srv/2/"
in_root useradd -m alice
boot

step "install the package"
inside sh -c 'dpkg -i /srv/1/*.deb' || fail "dpkg -i"
step "as root, and as an ordinary user with a token"
expect "shellrunner" inside shellrunner run -- id -un
token=$(inside sh -c 'shellrunner token create alice 2>>/etc/shellrunner/tokens.toml')
inside systemctl reload shellrunner || fail "reload"
sleep 1
expect "shellrunner" alice SHELLRUNNER_TOKEN="$token" shellrunner run -- id -un
inside ls -ld /etc/shellrunner /etc/shellrunner/config.toml /etc/shellrunner/tokens.toml /var/lib/shellrunner /var/lib/shellrunner/home
expect "is installed by a package" inside shellrunner install
step "upgrade, with a job that runs and a changed configuration"
inside sh -c 'printf "\n[log]\nlevel = \"debug\"\n" >>/etc/shellrunner/config.toml'
before=$(inside systemctl show -p MainPID --value shellrunner)
job=$(inside shellrunner submit -- sh -c 'sleep 20; echo survived')
sleep 1
inside sh -c 'dpkg -i /srv/2/*.deb' || fail "dpkg -i of the newer version"
after=$(inside systemctl show -p MainPID --value shellrunner)
[ "$before" != "$after" ] || fail "the service was not restarted"
expect "\"version\":" inside sh -c 'journalctl -o cat -u shellrunner | grep "\"listening\"" | tail -1'
expect "level = " inside cat /etc/shellrunner/config.toml
expect "survived" inside shellrunner logs -f "$job"
expect "exited 0" inside shellrunner ps --all --limit 1
step "an upgrade where stopping would end jobs does not restart"
inside sh -c 'printf "\n[supervisor]\non_stop = \"cancel\"\n" >>/etc/shellrunner/config.toml; systemctl restart shellrunner'
job=$(inside shellrunner submit -- sh -c 'sleep 15; echo survived')
sleep 1
expect "not restarted" inside sh -c 'dpkg -i /srv/2/*.deb'
expect "survived" inside shellrunner logs -f "$job"
inside sed -i '/^on_stop/d' /etc/shellrunner/config.toml
inside systemctl restart shellrunner
step "remove, with a job that runs"
inside shellrunner submit -- sleep 12
sleep 1
inside dpkg -r shellrunner || fail "dpkg -r"
expect "sleep" inside sh -c 'cat /proc/[0-9]*/cmdline | tr "\0" " "'
inside test -f /etc/shellrunner/config.toml || fail "the configuration is gone"
inside test -d /var/lib/shellrunner || fail "the history is gone"
step "purge"
sleep 13
inside dpkg -P shellrunner || fail "dpkg -P"
for path in /etc/shellrunner /var/lib/shellrunner /opt/shellrunner /usr/bin/shellrunner /root/.config/shellrunner/client.toml; do
    ! inside test -e "$path" || fail "$path is still there"
done
step "install again"
inside sh -c 'dpkg -i /srv/2/*.deb' || fail "dpkg -i"
expect "shellrunner" inside shellrunner run -- id -un
step "everything works"
