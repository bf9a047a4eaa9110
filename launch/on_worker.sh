#!/usr/bin/env bash
# What launch/tpu_vm.sh has each worker do, in the copy of the repository there.
#
#   on_worker.sh install
#   on_worker.sh run [NAME=VALUE ...] -- MODULE [ARGUMENT ...]
#   on_worker.sh stop
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
mkdir -p runs
log=runs/job.log pid_file=runs/job.pid

install() {
  local found candidate
  if ! "$python" -c '' 2>/dev/null; then
    rm -rf .venv
    found=''
    for candidate in python3.12 python3.11 python3; do
      if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        found=$candidate
        break
      fi
    done
    if [[ $found ]]; then
      "$found" -m venv .venv
    else # the images come with Python 3.10
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --seed --python 3.12 .venv
    fi
  fi
  "$python" -m pip install --quiet -e '.[tpu]'
}

stop() { # ends the job that runs here, if any; it saves first
  local pid waited
  pid=$(cat "$pid_file" 2>/dev/null) || return 0
  # The number may belong to another program by now.
  [[ -r /proc/$pid/cmdline && $(tr '\0' ' ' <"/proc/$pid/cmdline") == "$python "* ]] || return 0
  echo "stopping job $pid of $(hostname)" >&2
  kill -TERM "$pid" || return 0
  for ((waited = 0; waited < 300; waited++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 1
  done
  kill -KILL "$pid"
}

show() { # worker 0 shows what it logs; -p: a lost connection does not end the job
  case $(hostname) in
    *-w-0) tee -p -a "$log" ;;
    *-w-*) cat >>"$log" ;;
    *) tee -p -a "$log" ;;
  esac
}

run() {
  local code=0
  while [[ $1 != -- ]]; do
    export "${1?}"
    shift
  done
  shift
  [[ -x $python ]] || { echo "on_worker.sh: error: run install first" >&2 && exit 2; }
  stop
  printf '=== %s, %s\n' "$(date -u '+%F %T')" "$*" >>"$log"
  {
    "$python" -u -m "$@" &
    echo $! >"$pid_file"
    wait $!
  } 2>&1 | show || code=$?
  if ((code)); then
    case $(hostname) in
      *-w-0) ;;
      *-w-*) printf '%s left with %s:\n%s\n' "$(hostname)" "$code" "$(tail -n 20 "$log")" >&2 ;;
    esac
  fi
  return "$code"
}

"$@"
