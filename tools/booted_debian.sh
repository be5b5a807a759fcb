# Functions to boot a Debian in systemd-nspawn, for tools/try_*.sh, which read this file. All is below a temporary
# directory (WORK), which is removed at the end; ROOT names an existing root file system to copy instead of making one.
# shellcheck shell=bash

SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-} # empty: debootstrap chooses one
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv,ca-certificates
machine=shellrunner-try-$$
work=$(mktemp -d "${WORK:-/var/tmp}/shellrunner-try.XXXXXX")
root=$work/root
nspawn_pid=

cleanup() {
    if [ -n "$nspawn_pid" ]; then
        kill -TERM "$nspawn_pid" 2>/dev/null || true # systemd-nspawn shuts the machine down
        wait "$nspawn_pid" || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

step() {
    printf '\n== %s\n' "$*"
}

make_root() {
    [ "$(id -u)" = 0 ] || { echo "must be run as root" >&2; exit 1; }
    for tool in systemd-nspawn nsenter; do
        command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 77; }
    done
    step "a root file system of Debian $SUITE"
    if [ -n "${ROOT:-}" ]; then
        cp -a "$ROOT" "$root"
    else
        debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" ${MIRROR:+"$MIRROR"} >"$work/debootstrap.log" 2>&1 ||
            { tail "$work/debootstrap.log" >&2; exit 1; }
    fi
}

# Run a command before it boots.
in_root() {
    systemd-nspawn --quiet --register=no --keep-unit --pipe --private-network -D "$root" "$@" \
        </dev/null >"$work/in_root.log" 2>&1 || { cat "$work/in_root.log" >&2; return 1; }
}

boot() {
    step "boot, without a network"
    systemd-nspawn --quiet --register=no --keep-unit --private-network -M "$machine" -D "$root" --boot \
        >"$work/boot.log" 2>&1 </dev/null &
    nspawn_pid=$!
    for _ in $(seq 100); do
        inside systemctl is-system-running --wait 2>/dev/null | grep -q 'running\|degraded' && return
        sleep 0.3
    done
    tail "$work/boot.log" >&2
    return 1
}

# Run a command in the booted machine, as root or as alice.
inside() {
    local leader
    leader=$(pgrep -P "$nspawn_pid" | head -1)
    nsenter --target "$leader" --all env -i --chdir=/ HOME=/root \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
alice() {
    inside runuser -u alice -- env HOME=/home/alice "$@"
}

fail() {
    echo "FAILED: $*" >&2
    inside journalctl --no-pager -n 40 >&2 || true
    exit 1
}

# expect TEXT COMMAND...: the output contains TEXT.
expect() {
    local wanted=$1 output
    shift
    output=$("$@" 2>&1) || true
    printf '%s\n' "$output"
    case $output in *"$wanted"*) ;; *) fail "expected '$wanted' from: $*" ;; esac
}
