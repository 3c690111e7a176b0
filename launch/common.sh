# What every launch script shares: messages, dry runs, reading of options. Sourced, never run.
# shellcheck shell=bash

# Exit codes after which the same command goes on. Every other one but 0 is an error, which would only be repeated.
# Saved and stopped because it was asked to (EXIT_PREEMPTED in slap_jax/checkpoints/run.py).
# shellcheck disable=SC2034 # read by the scripts that source this file
EXIT_PREEMPTED=83
# Ended because another process of the run was lost (EXIT_LOST in slap_jax/parallel/process_group.py).
EXIT_LOST=84
# JAX itself ends a process that has lost the others by an abort.
EXIT_ABORTED=134

DRY_RUN=${DRY_RUN:-}

say() {
  printf '%s | %s\n' "$PROGRAM" "$*" >&2
}

die() {
  say "$*"
  exit 2
}

# Prints the comment at the top of a script, which is its manual.
manual() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}

# Words as a shell would have to be given them.
quoted() {
  local word line=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=("$word")
    elif [[ $word == *"'"* ]]; then
      line+=("$(printf '%q' "$word")")
    else
      line+=("'$word'")
    fi
  done
  printf '%s' "${line[*]}"
}

# Runs a command, or prints it in a dry run.
run() {
  if [[ $DRY_RUN ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# The value of an option, which must be there: `zone=$(value "$@")`.
value() {
  [[ $# -ge 2 && $2 != -- ]] || die "$1 needs a value; see --help"
  printf '%s' "$2"
}

number() {
  [[ $2 =~ ^[0-9]+$ ]] || die "$1 is '$2'; write a number"
}

need() {
  [[ $DRY_RUN ]] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# What `slap` is to do must be known before anything is created: an empty command would be noticed on the cluster.
need_command() {
  [[ $# -gt 0 ]] || die "nothing to run: write -- train --config FILE.py[:ARG] --run-dir DIR after the options"
}

# Waits for a process, and leaves its exit code in `code`. A signal ends bash's wait, but not the process: the traps of the
# scripts set `interrupted`.
wait_for() {
  while true; do
    interrupted=''
    wait "$1"
    # shellcheck disable=SC2034 # read by the scripts
    code=$?
    [[ $interrupted ]] || break
  done
}

# The exit code of a run from those of its processes, one a line: an error of one, else 84 if they only lost each other,
# else 83 if any was asked to stop, else 0.
verdict() {
  awk -v preempted="$EXIT_PREEMPTED" -v lost="$EXIT_LOST" -v aborted="$EXIT_ABORTED" '
    $1 == preempted {early = 1; next}
    $1 == lost || $1 == aborted {alone = $1; next}
    $1 != 0 && !error {error = $1}
    END {
      if (error) print error
      else if (alone) print (NR > 1 ? lost : alone)
      else print (early ? preempted : NR ? 0 : 1)
    }'
}

# Whether the same command goes on after this exit code; says why.
goes_on() {
  case $1 in
    "$EXIT_PREEMPTED") say "the run was asked to stop and has saved" ;;
    "$EXIT_LOST") say "the processes of the run have lost each other" ;;
    *) return 1 ;;
  esac
}
