#!/usr/bin/env bash
# Build a Debian package: the program with its dependencies in /opt/shellrunner, units, system user and configuration.
#
# Usage: tools/build_deb.sh WHEEL [DIR]      the package is written into DIR (default: dist)
# Build it on the Debian release that it is for: it needs that Python. Dependencies come from PyPI, or with
# PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR from wheels in a directory. EXTRAS='[cluster]' adds what several hosts with one
# history in PostgreSQL need. Needs dpkg-deb, pip and /usr/bin/python3.
set -euo pipefail
umask 022
wheel=$(realpath "$1")
mkdir -p "${2:-dist}"
output=$(realpath "${2:-dist}")
here=$(realpath "$(dirname "$0")")
cd "$here/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/stage
home=$stage/opt/shellrunner
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y "$wheel")} PIP_DISABLE_PIP_VERSION_CHECK=1

# An environment whose files do not name the directory in which they are built.
/usr/bin/python3 -m venv --without-pip "$home"
python3 -m pip --python "$home/bin/python3" install -q --no-compile "$wheel${EXTRAS:-}"
version=$("$home/bin/python3" -c 'import shellrunner; print(shellrunner.__version__)')
short=$("$home/bin/python3" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$home/bin/python3" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
"$home/bin/python3" -m shellrunner install --root "$stage" 2>/dev/null
find "$home/bin" -type f ! -name shellrunner -delete
sed -i "s|$stage||g" "$home/bin/shellrunner" "$home/pyvenv.cfg"
rm -f "$home"/lib64 "$home"/.gitignore
find "$home" -type d -name tests -prune -exec rm -r {} + # of dependencies
find "$home" \( -name direct_url.json -o -name REQUESTED \) -delete
find "$home" -name __pycache__ -prune -exec rm -r {} +
# Hashes instead of times: the archive's times are not those of the files here.
/usr/bin/python3 -m compileall -q -j 0 -s "$stage" -p / --invalidation-mode unchecked-hash "$home/lib"

doc=$stage/usr/share/doc/shellrunner
mkdir -p "$doc" "$stage/usr/share/man/man1" "$stage/usr/share/lintian/overrides" "$stage/DEBIAN"
gzip -9n <"$home/share/man/man1/shellrunner.1" >"$stage/usr/share/man/man1/shellrunner.1.gz"
rm -r "$home/share"
{
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo "Upstream-Name: shellrunner"
    echo
    echo "Files: *"
    echo "Copyright: 2026, the shellrunner developers"
    echo "License: Expat"
    sed -n '/^Permission/,$ { s/^$/./; s/^/ /; p }' LICENSE
    echo
    echo "Comment: The packages in /opt/shellrunner/lib have their licences in their *.dist-info directories, and the"
    echo " page's in shellrunner/page/vendor."
} >"$doc/copyright"
printf 'shellrunner (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of this version.\n\n -- the shellrunner developers <shellrunner@localhost>  %s\n' \
    "$version" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
install -m 644 tools/deb/lintian-overrides "$stage/usr/share/lintian/overrides/shellrunner"
install -m 755 tools/deb/postinst tools/deb/prerm tools/deb/postrm "$stage/DEBIAN/"
echo /etc/shellrunner/config.toml >"$stage/DEBIAN/conffiles"
chmod 640 "$stage/etc/shellrunner/config.toml"
cat >"$stage/DEBIAN/control" <<EOF
Package: shellrunner
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: the shellrunner developers <shellrunner@localhost>
Section: admin
Priority: optional
Depends: python3 (>= $short), python3 (<< $next~), libc6, systemd
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Description: run shell commands for other programs
 A service that runs shell commands: programs submit them over HTTP, follow
 their output live, and fetch the result. Commands survive a restart of the
 service.
 .
 This package has its dependencies in /opt/shellrunner.
EOF
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --build -Zxz "$stage" "$output/shellrunner_${version}_$(dpkg --print-architecture).deb"
