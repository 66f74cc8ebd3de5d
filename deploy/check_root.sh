#!/usr/bin/env bash
# The Dockerfile's steps without Docker, in a clean Debian root, and the health check there: sizes and answers on screen.
#   deploy/check_root.sh ROOT WHEELS    ROOT: a folder made by `debootstrap --variant=minbase --include=python3,python3-venv`
#                                       WHEELS: agcxr's wheel and those that its extras serve and dicom need
# Needs root. The process runs as user 10001, without capabilities; the root is read-only but for /tmp and its own folder.
set -euo pipefail
root=$(realpath "$1") wheels=$(realpath "$2") port=${3:-18000}

size() { du -sm --exclude=proc --exclude=wheels "$root" | cut -f1; }
echo "clean root: $(size) MB"
mkdir -p "$root/wheels" "$root/var/lib/agcxr"
cp "$wheels"/*.whl "$root/wheels"
chroot "$root" python3 -m venv --without-pip /usr/local/agcxr
chroot "$root" python3 -m venv /tmp/pip
wheel=$(cd "$root" && ls wheels/agcxr-*.whl)
PIP_FIND_LINKS=file:///wheels chroot "$root" /tmp/pip/bin/pip --python /usr/local/agcxr/bin/python install --quiet --no-index --no-compile "/$wheel[serve,dicom]"
rm -rf "$root/tmp/pip" "$root/wheels" "$root/var/cache/apt" "$root/var/lib/apt/lists"
rm -rf "$root"/usr/share/{doc,locale,man}  # as slim images do
chown 10001:10001 "$root/var/lib/agcxr"
echo "with agcxr: $(size) MB, of which $(du -sm "$root/usr/local/agcxr" | cut -f1) MB are /usr/local/agcxr"

bwrap --ro-bind "$root" / --proc /proc --dev /dev --tmpfs /tmp --bind "$root/var/lib/agcxr" /var/lib/agcxr \
    --unshare-user --uid 10001 --gid 10001 --unshare-pid --cap-drop ALL --die-with-parent --chdir /var/lib/agcxr \
    --clearenv --setenv PATH /usr/local/agcxr/bin:/usr/bin:/bin --setenv PYTHONDONTWRITEBYTECODE 1 \
    agcxr serve starter --port "$port" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 120); do
    if answer=$(curl -fsS "http://127.0.0.1:$port/health" 2>/dev/null); then
        echo "health: $answer"
        exit 0
    fi
    kill -0 $server || { echo "the server ended" >&2; exit 1; }
    sleep 1
done
echo "no answer in two minutes" >&2
exit 1
