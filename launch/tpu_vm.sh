#!/usr/bin/env bash
# Drives one Cloud TPU VM (a pod slice) through gcloud; launch/README.md explains.
#
#   launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- arguments of the job]
#
# Commands
#   create    makes the VM; tries again when there is no capacity
#   copy      packs this repository and unpacks it as ~/gen on all workers
#   install   makes ~/gen/.venv on all workers; does nothing where it is up to date
#   run       starts the job on all workers and shows worker 0
#   stop      tells a job that is still running to save and leave
#   collect   copies the run's folder of worker 0 and the logs of all workers to runs/NAME
#   delete    deletes the VM
#   all       create, copy, install, run, collect; then delete, whatever happened
#
# Options
#   --name NAME          the VM: lower-case letters, digits and -, at most 63
#   --zone ZONE          such as us-west4-a
#   --type TYPE          for create and all: v5litepod-16, v4-32, v6e-8, ...
#   --version IMAGE      runtime image; by default the one that Google names for the type
#   --project PROJECT    by default gcloud's own
#   --spot               cheaper, and may be taken away at any time
#   --setup COMMAND      for install and all: a shell line for all workers, such as a mount
#   --module MODULE      what `run` starts; by default gen.train
#   --env NAME=VALUE     for the job; may be repeated
#   --folder FOLDER      what `collect` copies, below ~/gen or absolute; by default the job's
#                        --workdir, or else runs
#   --restart N          start a job again that asks for it (exit codes 42, 134, 143, 255)
#   --retries N          of create, ssh and scp, 10, 20, 40, ... seconds apart; 5 by default
#   --keep               for all: do not delete
#   --dry-run            print the commands, quoted for pasting, and run none
set -euo pipefail

command='' name='' zone='' type='' version='' project='' setup='' folder='' module=gen.train
retries=5 restarts=0 spot='' keep='' dry_run='' has_job=''
envs=() job=()

note() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }

fail() { # MESSAGE: a mistake in the arguments
  note "error: $1 (see --help)"
  exit 2
}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

# Words as bash reads them back, in ASCII whatever the locale: bash writes a line break as $'\n',
# so that each command stays on one line. The login shell of a TPU VM is bash.
quoted() {
  local LC_ALL=C text
  printf -v text '%q ' "$@"
  printf '%s' "${text% }"
}

run() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

retry() { # COMMAND...: again after a failure, with growing pauses
  local attempt code pause=10
  for ((attempt = 1; ; attempt++)); do
    code=0
    "$@" || code=$?
    if ((code == 0 || attempt > retries)); then return "$code"; fi
    note "exit code $code; again in $pause s ($attempt of $retries)"
    sleep "$pause"
    pause=$((pause * 2))
  done
}

tpu() { # VERB ARGUMENT...
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone" ${project:+--project="$project"} --quiet
}

on_all() { # COMMAND: a line for the shell of every worker
  # Without the flag a long silent job can lose its connection.
  tpu ssh "$name" --worker=all --ssh-flag=-oServerAliveInterval=30 --command="$1"
}

refuse_existing() {
  # Else `all` would, with the name of somebody's VM, delete that.
  if [[ $dry_run ]]; then
    tpu describe "$name"
  elif tpu describe "$name" >/dev/null 2>&1; then
    fail "a VM $name exists in $zone already: choose another --name, or use the other commands"
  fi
}

create() {
  retry tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
}

copy() {
  local archive=runs/$name/gen.tar.gz
  run mkdir -p "runs/$name" &&
    run tar -czf "$archive" --exclude=./runs --exclude=./.git --exclude='./.venv*' \
      --exclude=./build --exclude=./dist --exclude=__pycache__ --exclude='.*_cache' . &&
    retry tpu scp "$archive" "$name:gen.tar.gz" --worker=all &&
    retry on_all 'mkdir -p gen && find gen -mindepth 1 -maxdepth 1 ! -name runs ! -name .venv -exec rm -rf {} + && tar -xzf gen.tar.gz -C gen'
}

install() {
  retry on_all 'bash gen/launch/on_worker.sh install' || return
  if [[ $setup ]]; then retry on_all "$setup"; fi
}

start_job() {
  local words=(bash gen/launch/on_worker.sh run ${envs[@]+"${envs[@]}"} -- "$module" ${job[@]+"${job[@]}"})
  local restart code
  if [[ $module == gen.train && " ${job[*]-} " != *" --distributed"* ]]; then
    words+=(--distributed auto)
  fi
  for ((restart = 0; ; restart++)); do
    code=0
    on_all "$(quoted "${words[@]}")" || code=$?
    case $code in
      42 | 134 | 143 | 255) ;;
      *) return "$code" ;;
    esac
    if ((restart == restarts)); then return "$code"; fi
    note "the job left with $code: restart $((restart + 1)) of $restarts"
    sleep 10
  done
}

stop() { on_all 'bash gen/launch/on_worker.sh stop'; }

collect() {
  local workers=1 worker from=gen/$folder
  if [[ $folder == /* ]]; then from=$folder; fi
  run mkdir -p "runs/$name" &&
    retry tpu scp --recurse "$name:$from" "runs/$name" --worker=0 || return
  if [[ ! $dry_run ]]; then
    workers=$(tpu describe "$name" --format='value(networkEndpoints.len())') || return
  fi
  for ((worker = 0; worker < workers; worker++)); do
    retry tpu scp "$name:gen/runs/job.log" "runs/$name/worker-$worker.log" --worker="$worker" || return
  done
}

delete() {
  local code=0
  retry tpu delete "$name" || code=$?
  if ((code)); then note "$name may still run, and cost money: look with gcloud compute tpus tpu-vm list"; fi
  return "$code"
}

leave() { # runs when `all` ends in whatever way
  local code=$?
  trap - EXIT
  trap '' INT TERM
  if [[ $keep ]]; then
    note "$name is kept, and costs money until it is deleted"
  else
    delete || code=$((code ? code : 1))
  fi
  exit "$code"
}

all() {
  local code=0
  refuse_existing
  trap leave EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  create || exit
  { copy && install && start_job; } || code=$?
  collect || code=$((code ? code : 1))
  exit "$code"
}

add_env() { # NAME=VALUE
  local variable=${1%%=*}
  [[ $1 == *=* && $variable =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
    fail "--env takes NAME=VALUE, with a NAME of letters, digits and _"
  case $dry_run:$(tr '[:lower:]' '[:upper:]' <<<"$variable") in
    1:*TOKEN* | 1:*KEY* | 1:*SECRET* | 1:*PASSWORD* | 1:*CREDENTIAL*) envs+=("$variable=***") ;;
    *) envs+=("$1") ;;
  esac
}

parse() {
  local option given=()
  command=${1-}
  (($#)) && shift
  while (($#)); do
    if [[ $1 == -- ]]; then
      shift
      has_job=1 job=("$@")
      break
    fi
    if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
    option=$1
    shift
    case $option in
      --spot) spot=1 && continue ;;
      --keep) keep=1 && continue ;;
      --dry-run) dry_run=1 && continue ;;
    esac
    case $option in
      --name | --zone | --type | --version | --project | --setup | --module | --folder | --env | --retries | --restart) ;;
      *) fail "unknown argument $(quoted "$option")" ;;
    esac
    (($#)) || fail "$option needs a value"
    case $option in
      --env) given+=("$1") ;;
      --restart) restarts=$1 ;;
      *) printf -v "${option#--}" '%s' "$1" ;;
    esac
    shift
  done
  # After --dry-run is known, which decides what may be shown.
  for option in ${given[@]+"${given[@]}"}; do add_env "$option"; done
}

check() {
  local LC_ALL=C option # in other locales a range such as a-z may hold capitals
  case $command in
    create | copy | install | run | stop | collect | delete | all) ;;
    *) fail "no command $(quoted "$command"): create, copy, install, run, stop, collect, delete or all" ;;
  esac
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    fail "--name takes a letter, then lower-case letters, digits and -, at most 63, not $(quoted "$name")"
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "--zone takes a zone such as us-west4-a, not $(quoted "$zone")"
  [[ $module =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]] || fail "--module takes a module such as gen.train, not $(quoted "$module")"
  for option in project version; do
    [[ ${!option} =~ ^[A-Za-z0-9._:-]*$ ]] || fail "--$option takes a name, not $(quoted "${!option}")"
  done
  for option in retries restarts; do
    [[ ${!option} =~ ^[0-9]{1,3}$ ]] || fail "--${option/restarts/restart} takes a number, not $(quoted "${!option}")"
  done
  case $command in create | all)
    [[ $type =~ ^v[0-9]+[a-z]*-[0-9]+$ ]] || fail "--type takes a type such as v5litepod-16, not $(quoted "$type")" ;;
  esac
  case $command in run | all)
    [[ $has_job ]] || fail "give the job's arguments after --" ;;
  esac
  # Some versions of scp hand it to a shell on the worker and some do not: no quoting suits both.
  case $command in collect | all)
    [[ $folder =~ ^[A-Za-z0-9._/=-]+$ ]] || fail "the folder to collect (--folder, else the job's --workdir) takes letters, digits and ._/=-, not $(quoted "$folder")" ;;
  esac
}

set_defaults() {
  local index
  # https://cloud.google.com/tpu/docs/runtimes
  case $type in
    v5litepod-*) : "${version:=v2-alpha-tpuv5-lite}" ;;
    v5p-*) : "${version:=v2-alpha-tpuv5}" ;;
    v6e-*) : "${version:=v2-alpha-tpuv6e}" ;;
    *) : "${version:=tpu-ubuntu2204-base}" ;;
  esac
  for ((index = 0; index < ${#job[@]}; index++)); do
    case ${job[index]} in
      --workdir) : "${folder:=${job[index + 1]-}}" ;;
      --workdir=*) : "${folder:=${job[index]#*=}}" ;;
    esac
  done
  : "${folder:=runs}"
}

main() {
  case ${1-} in -h | --help | help) usage && exit ;; esac
  parse "$@"
  set_defaults
  check
  run cd "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  if [[ ! $dry_run ]] && ! command -v gcloud >/dev/null; then fail "gcloud is not installed"; fi
  case $command in
    create) refuse_existing && create ;;
    run) start_job ;;
    *) "$command" ;;
  esac
}

main "$@"
