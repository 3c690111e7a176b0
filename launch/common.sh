# Functions that all launch scripts share: messages, dry runs, option parsing. Sourced, never run directly.
# shellcheck shell=bash

# After these exit codes the same command resumes the run. Any other nonzero code is an error that a restart would repeat.
# Training was asked to stop, and saved (EXIT_PREEMPTED in slap_jax/checkpoints/run.py).
# shellcheck disable=SC2034 # read by the scripts that source this file
EXIT_PREEMPTED=83
# Another process of the run was lost (EXIT_LOST in slap_jax/parallel/process_group.py).
EXIT_LOST=84
# JAX itself aborts a process that has lost contact with the others (SIGABRT).
EXIT_ABORTED=134

DRY_RUN=${DRY_RUN:-}

say() {
  printf '%s | %s\n' "$PROGRAM" "$*" >&2
}

die() {
  say "$*"
  exit 2
}

# Prints the comment at the top of a script as its help text.
usage() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}

# Quotes words for a shell.
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

# Prints the value of the option `$1`, or exits if it has none: `zone=$(value "$@") || exit`.
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

# Checked before anything is created; otherwise an empty command would fail only on the cluster.
need_command() {
  [[ $# -gt 0 ]] || die "nothing to run: write -- train --config FILE.py[:ARG] --run-dir DIR after the options"
}

# Waits for a process and stores its exit code in `code`. A signal interrupts bash's wait but not the process, so the
# traps of the scripts set `interrupted`, and the wait starts over.
wait_for() {
  while true; do
    interrupted=''
    wait "$1"
    # shellcheck disable=SC2034 # read by the scripts
    code=$?
    [[ $interrupted ]] || break
  done
}

# Combines the exit codes of all processes, one per line, into that of the run: the first error if there is one, else 84
# if processes lost each other, else 83 if any was asked to stop, else 0.
combined_exit_code() {
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

# Succeeds, and prints why, if the same command would resume the run after this exit code.
can_resume() {
  case $1 in
    "$EXIT_PREEMPTED") say "the run was asked to stop and saved" ;;
    "$EXIT_LOST") say "a process of the run lost contact with the others" ;;
    *) return 1 ;;
  esac
}
