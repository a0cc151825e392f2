# Sourced by the entry points: finds Python 3, and installs it where the distribution's own is missing.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin
export PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
if ! command -v python3 >/dev/null; then
  if [ "$(id -u)" != 0 ]; then
    echo "python3 is missing: apt-get install python3, or run this as root" >&2
    exit 1
  fi
  apt-get update -q && apt-get install -q -y --no-install-recommends python3
fi
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "python3 is older than 3.11: Debian 12 or newer is needed" >&2
  exit 1
fi
