# Functions to boot a Debian in systemd-nspawn, for tools/try_*.sh, which read this file. All is below a temporary
# directory (WORK), which is removed at the end; ROOT names an existing root file system to copy instead of making one.
# Most scripts have one machine, in $root; one with more copies that, and names each for `boot`, `on` and `halt`.
# shellcheck shell=bash

SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-} # empty: debootstrap chooses one
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv,ca-certificates
work=$(mktemp -d "${WORK:-/var/tmp}/shellrunner-try.XXXXXX")
root=$work/root
declare -A nspawn_pids=()

cleanup() {
    local name
    for name in "${!nspawn_pids[@]}"; do
        halt "$name"
    done
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

# install_program WHEEL [EXTRAS]: into /opt/shellrunner; WHEEL is empty for one of this checkout.
install_program() {
    local wheel=$1 python
    step "the program"
    if [ -z "$wheel" ]; then
        python3 -m pip wheel -q --no-deps --wheel-dir "$work/dist" .
        wheel=$(ls "$work"/dist/*.whl)
    fi
    mkdir -p "$root/srv"
    # Downloaded here, so that the root needs neither this machine's network nor its certificates.
    python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    python3 -m pip download -q --only-binary :all: --python-version "$python" --dest "$root/srv" "$wheel${2:-}"
    in_root /bin/sh -ec "python3 -m venv /opt/shellrunner
        /opt/shellrunner/bin/pip install -q --no-index --find-links /srv 'shellrunner${2:-}'
        useradd -m alice"
}

# boot [NAME [ROOT]]: NAME is its hostname. Return once it has booted.
boot() {
    start_machine "$@"
    wait_for_machine "${1:-shellrunner-try}" 'running|degraded' --wait
}

# start_machine [NAME [ROOT]]: return once its systemd runs.
start_machine() {
    local name=${1:-shellrunner-try} directory=${2:-$root}
    step "boot $name, without a network"
    echo "$name" >"$directory/etc/hostname"
    systemd-nspawn --quiet --register=no --keep-unit --private-network -M "$name-$$" -D "$directory" --boot \
        >"$work/boot-$name.log" 2>&1 </dev/null &
    nspawn_pids[$name]=$!
    wait_for_machine "$name" 'starting|running|degraded'
}

# wait_for_machine NAME STATES [--wait]: with --wait its systemctl waits until all units are started.
wait_for_machine() {
    local state
    for _ in $(seq 100); do
        state=$(on "$1" systemctl is-system-running "${@:3}" 2>/dev/null) || true # it fails, but for "running"
        [[ $state =~ ^($2)$ ]] && return
        sleep 0.3
    done
    tail "$work/boot-$1.log" >&2
    return 1
}

# halt NAME: systemd-nspawn shuts the machine down.
halt() {
    kill -TERM "${nspawn_pids[$1]}" 2>/dev/null || true
    wait "${nspawn_pids[$1]}" || true
    unset "nspawn_pids[$1]"
}

leader() {
    pgrep -P "${nspawn_pids[$1]}" | head -1
}

# on NAME COMMAND...: run a command in a booted machine, as root.
on() {
    local name=$1
    shift
    nsenter --target "$(leader "$name")" --all env -i --chdir=/ HOME=/root \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Run a command in the machine that has no other name, as root or as alice.
inside() {
    on shellrunner-try "$@"
}
alice() {
    inside runuser -u alice -- env HOME=/home/alice "$@"
}

fail() {
    echo "FAILED: $*" >&2
    local name
    for name in "${!nspawn_pids[@]}"; do
        echo "-- the journal of $name" >&2
        on "$name" journalctl --no-pager -n 40 >&2 || true
    done
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
