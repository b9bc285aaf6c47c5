# shellcheck shell=bash
# The TAP side of lib.sh, which sources it: runs the cases of a script, each in a process of its own,
# and prints their result lines. lib.sh says how it is used.

# ---------------------------------------------------------------------------------------------
# One case, in its own process

case_diagnostics() {
  [[ -n ${OUT:-} && -f $OUT ]] || return 0
  printf -- '--- last run: exit %s; its events without logs:\n' "${RC:-?}"
  jq -c 'select(.kind != "step_log") | {kind, key, reason, path, change, exit_code}
         | with_entries(select(.value != null))' "$OUT" 2>&1 | tail -n 40
  printf -- '--- the last lines its steps logged:\n'
  jq -r 'select(.kind == "step_log") | .line' "$OUT" 2>&1 | tail -n 15
  printf -- '--- its stderr:\n'
  tail -n 20 "$ERR"
}

# Paths outside the case directory that a case made: add them to REMOVE_AT_END at once.
case_ended() {
  local rc=$?
  trap - EXIT ERR
  set +e
  rm -rf -- "${REMOVE_AT_END[@]}"
  # Background jobs of the case only.
  local job
  for job in $(jobs -p); do kill "$job" 2>/dev/null; done
  if [[ $rc != 0 && $rc != 77 ]]; then case_diagnostics; fi
  exit "$rc"
}

# shellcheck disable=SC2034 # most of these are for lib.sh and the case
run_case() {
  T=$HM_E2E_CASE
  W=$T/ws
  PIPELINE=ci
  RUNS=0
  RC=0
  OUT=
  ERR=
  REMOVE_AT_END=()
  export HM_HOME=$T/home HOME=$T/userhome TMPDIR=$T/tmp LC_ALL=C HM_IMAGE__PULL=never
  unset XDG_DATA_HOME XDG_CONFIG_HOME XDG_CACHE_HOME GIT_DIR GIT_WORK_TREE
  umask 022
  mkdir -p "$HOME" "$TMPDIR"
  workspace
  cd "$T" || exit 1
  trap case_ended EXIT
  set -Eeu -o pipefail
  trap 'printf "%s:%s: failed: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND"' ERR
  "$1"
}

# ---------------------------------------------------------------------------------------------
# Can cases run here at all? Prints the reason when not. Runs as the test user.

probe_overlay() {
  local dir
  dir=$(mktemp -d "${TMPDIR:-/tmp}/hm-e2e-probe.XXXXXX") || return 1
  mkdir "$dir/lower" "$dir/upper" "$dir/work" "$dir/mnt"
  local rc=0 option=
  local -a enter=(unshare -m)
  if [[ $(id -u) != 0 ]]; then
    enter=(unshare -Urm)
    option=,userxattr
  fi
  "${enter[@]}" mount -t overlay overlay \
    -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work$option" "$dir/mnt" \
    2>/dev/null || rc=1
  chmod -R u+rwX "$dir" 2>/dev/null
  rm -rf "$dir"
  return "$rc"
}

run_probe() {
  # /dev/fuse
  if ! { : <>/dev/fuse; } 2>/dev/null; then
    printf 'no usable /dev/fuse for user %s\n' "$(id -un)"
  elif ! command -v bwrap >/dev/null; then
    printf 'no bwrap\n'
  elif [[ $(id -u) != 0 ]] && ! unshare -Ur true 2>/dev/null; then
    printf 'no user namespaces for user %s\n' "$(id -un)"
  elif [[ $(id -u) == 0 ]] && ! unshare -m true 2>/dev/null; then
    printf 'root here may not make a mount namespace\n'
  elif ! bwrap --ro-bind / / true 2>/dev/null; then
    printf 'bwrap does not work for user %s\n' "$(id -un)"
  elif ! probe_overlay; then
    printf 'no overlayfs with its upper directory below %s for user %s\n' \
      "${TMPDIR:-/tmp}" "$(id -un)"
  fi
}

# ---------------------------------------------------------------------------------------------
# All cases of a script

bail_out() {
  printf 'Bail out! %s\n' "$*"
  exit 1
}

# Test functions in the order in which they are defined.
all_cases() {
  shopt -s extdebug
  local name
  for name in $(compgen -A function test_); do
    declare -F "$name"
  done | sort -k2,2n | cut -d' ' -f1
  shopt -u extdebug
}

# E2E_AS: the prefix that makes a command run as the test user.
choose_user() {
  E2E_AS=()
  [[ -n ${HM_TEST_USER:-} && $(id -u) == 0 ]] || return 0
  local uid gid
  uid=$(id -u "$HM_TEST_USER" 2>/dev/null) || bail_out "HM_TEST_USER: no user $HM_TEST_USER"
  gid=$(id -g "$HM_TEST_USER")
  E2E_AS=(setpriv --reuid "$uid" --regid "$gid" --clear-groups)
}

# A checkout below /root is closed to the test user: such a run uses copies.
make_reachable() {
  ((${#E2E_AS[@]} > 0)) || return 0
  if "${E2E_AS[@]}" test -r "$E2E_SCRIPT" -a -x "$HM"; then return 0; fi
  E2E_COPIES=$(mktemp -d "${TMPDIR:-/tmp}/hm-e2e-copies.XXXXXX")
  cp "$E2E_DIR"/*.{sh,py} "$E2E_SCRIPT" "$HM" "$E2E_COPIES/" 2>/dev/null
  E2E_SCRIPT=$E2E_COPIES/$(basename "$E2E_SCRIPT")
  export HM=$E2E_COPIES/${HM##*/}
  if [[ -x $HMFS ]]; then
    cp "$HMFS" "$E2E_COPIES/"
    export HMFS=$E2E_COPIES/${HMFS##*/}
  fi
  chmod -R a+rX "$E2E_COPIES"
}

find_binaries() {
  [[ -n ${HM:-} ]] || bail_out 'HM must name the hm binary'
  [[ -x $HM ]] || bail_out "HM: $HM is not there or not executable"
  HM=$(realpath "$HM")
  HMFS=$(realpath -m "${HMFS:-$(dirname "$HM")/hmfs}")
  export HM HMFS
  local name
  for name in jq setpriv unshare timeout; do
    command -v "$name" >/dev/null || bail_out "the harness needs $name"
  done
}

remove_case_dir() {
  if [[ -n ${HM_TEST_KEEP:-} ]]; then
    printf '# kept: %s\n' "$1"
    return 0
  fi
  "${E2E_AS[@]}" chmod -R u+rwX "$1" 2>/dev/null
  rm -rf --one-file-system "$1" 2>/dev/null && return 0
  # Files of subordinate ids, written by a rootless step.
  "${E2E_AS[@]}" unshare --map-auto --map-root-user rm -rf --one-file-system "$1" 2>/dev/null
  rm -rf --one-file-system "$1" || printf '# cannot remove %s\n' "$1"
}

# What the case in DIR left behind, after a short wait; processes are ended, mounts taken away.
take_leftovers() {
  local dir=$1 pid mnt
  if ! wait_until 3 no_case_processes "$dir"; then
    for pid in $(case_processes "$dir"); do
      printf 'FAIL: left behind: process %s %s\n' "$pid" \
        "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
      kill -9 "$pid" 2>/dev/null
    done
  fi
  for mnt in $(mounts_below "$dir"); do
    printf 'FAIL: left behind: mount %s\n' "$mnt"
    umount -l "$mnt" 2>/dev/null || fusermount3 -uz "$mnt" 2>/dev/null
  done
}

# one_case NUMBER NAME: runs it and prints its TAP line.
one_case() {
  local number=$1 name=$2 dir rc=0 left limit title
  title=${name#test_}
  title=${title//_/ }
  limit=${E2E_TIMEOUT[$name]:-$E2E_DEFAULT_TIMEOUT}
  dir=$(mktemp -d "${TMPDIR:-/tmp}/hm-e2e.XXXXXX") || bail_out 'mktemp failed'
  chmod 755 "$dir"
  if ((${#E2E_AS[@]} > 0)); then chown "$HM_TEST_USER:" "$dir"; fi
  local log=$dir.log
  HM_E2E_CASE=$dir timeout --kill-after=10 "$limit" "${E2E_AS[@]}" \
    bash "$E2E_SCRIPT" --case "$name" >"$log" 2>&1 </dev/null || rc=$?
  left=$(take_leftovers "$dir")
  if [[ $rc == 77 && -z $left ]]; then
    printf 'ok %s - %s # SKIP %s\n' "$number" "$title" "$(cat "$dir/skip-reason")"
  elif [[ $rc == 0 && -z $left ]]; then
    printf 'ok %s - %s\n' "$number" "$title"
    if [[ -n $E2E_VERBOSE ]]; then sed 's/^/# /' "$log"; fi
  else
    E2E_FAILED=1
    printf 'not ok %s - %s\n' "$number" "$title"
    if [[ $rc == 124 || $rc == 137 ]]; then printf '# timeout after %s s\n' "$limit"; fi
    { tail -n 80 "$log"; printf '%s\n' "$left"; } | sed '/^$/d; s/^/# /'
    printf '# again: %s %s\n' "${0##*/}" "$name"
  fi
  rm -f "$log"
  remove_case_dir "$dir"
}

# The cases named by the arguments, or all.
choose_cases() {
  local name
  E2E_CASES=()
  for name in "$@"; do
    name=test_${name#test_}
    declare -F "$name" >/dev/null || bail_out "no case $name"
    E2E_CASES+=("$name")
  done
  ((${#E2E_CASES[@]} > 0)) || mapfile -t E2E_CASES < <(all_cases)
}

run_tests() {
  E2E_VERBOSE=
  E2E_FAILED=
  E2E_COPIES=
  case ${1:-} in
    --case) run_case "$2"; return ;;
    --probe) run_probe; return ;;
    -l) all_cases; return ;;
    -v) E2E_VERBOSE=1; shift ;;
  esac
  choose_cases "$@"
  find_binaries
  choose_user
  make_reachable
  local reason number=0 name
  reason=$("${E2E_AS[@]}" bash "$E2E_SCRIPT" --probe)
  printf '1..%s\n' "${#E2E_CASES[@]}"
  if [[ -z $reason ]] && declare -F before_cases >/dev/null; then before_cases; fi
  for name in "${E2E_CASES[@]}"; do
    number=$((number + 1))
    if [[ -n $reason ]]; then
      name=${name#test_}
      printf 'ok %s - %s # SKIP %s\n' "$number" "${name//_/ }" "$reason"
    else
      one_case "$number" "$name"
    fi
  done
  if [[ -n $E2E_COPIES ]]; then rm -rf "$E2E_COPIES"; fi
  [[ -z $E2E_FAILED ]]
}
