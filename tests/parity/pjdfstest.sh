#!/usr/bin/env bash
# pjdfstest (github.com/pjd/pjdfstest, the C version) in a step's root against plain overlayfs.
#
#   HM=build/tools/hm tests/parity/pjdfstest.sh CHECKOUT [TEST…]
#
# CHECKOUT is not written to; it is built in a temporary directory, which needs autoconf, automake
# and a C compiler. TEST: test files or directories below CHECKOUT/tests; without, all of them, which
# takes some minutes a tree. Each test file works in a directory of its own, which is there before:
#
#   plain      in the lower of an overlay of two directories, in the same sandbox
#   upper      made by the step itself
#   workspace  in the live workspace
#   layer      made by the step's parent
#
# Prints what failed where; exits 1 if anything failed in a step that did not in plain.
set -euo pipefail

if [[ ! -f ${1:-}/pjdfstest.c || -z ${HM:-} || $(id -u) != 0 ]]; then
  printf 'usage, as root: HM=build/tools/hm %s CHECKOUT [TEST…]\n' "$0" >&2
  exit 2
fi
CHECKOUT=$(realpath "$1")
HM=$(realpath "$HM")
shift
TREES=(upper workspace layer)
CAPABILITIES=(CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SETFCAP NET_BIND_SERVICE
  NET_RAW SYS_CHROOT AUDIT_WRITE) # of a step

T=$(mktemp -d "${TMPDIR:-/tmp}/hm-pjdfstest.XXXXXX")
trap 'rm -rf "$T"' EXIT
export HM_HOME=$T/home
chmod 755 "$T"
HERE=$T/ws/pjdfstest
mkdir -p "$T/ws/.hm" "$T/results" "$HERE"

build() {
  cp -r "$CHECKOUT" "$T/build"
  cd "$T/build"
  autoreconf -if && ./configure && make pjdfstest
  cp -r pjdfstest tests "$HERE"
}

# make_tree DIR: the directories of all test files.
make_tree() {
  local name
  sed 's,/,-,' "$HERE/list" | while read -r name; do
    mkdir -p "$1/$name"
    : >"$1/$name/.keep"
  done
}

# A step's filter of system calls has no counterpart in plain: it is about none that a test makes.
#
# In a sandbox, `bash run TREE` prints "FILE NUMBER ok|failed TEXT" for each test. A file that did
# not get through all it announced has failed as its "plan".
write_runner() {
  cat >"$HERE/run" <<'SCRIPT'
grep -E '^(Cap(Eff|Bnd)|NoNewPrivs):' /proc/self/status | tr '\n\t' '  ' |
  sed 's/^/sandbox - /; s/$/\n/'
HERE=$(dirname "$(realpath "$0")")
one() {
  mkdir -p "$2/${1/\//-}" && cd "$2/${1/\//-}" || exit 1
  bash "$3/tests/$1" 2>&1 | awk -v file="$1" '
    /^1\.\./ { planned = substr($1, 4) + 0 }
    /^ok / { print file, $2, "ok"; seen++ }
    /^not ok / { number = $3; $1 = $2 = $3 = ""; print file, number, "failed", $0; seen++ }
    END { if (seen != planned) print file, "plan", "failed", seen + 0, "of", planned + 0 }' \
    >"$RESULTS/${1/\//-}"
}
export -f one
RESULTS=$(mktemp -d)
export RESULTS
xargs -P 2 -I '{}' bash -c 'one {} "$@"' one "$1" "$HERE" <"$HERE/list"
cat "$RESULTS"/*
SCRIPT
}

write_pipeline() {
  cat >"$T/ws/.hm/ci.toml" <<'TOML'
[[step]]
key = "upper"
cache = "none"
run = "mkdir /tree && bash pjdfstest/run /tree"
[[step]]
key = "workspace"
cache = "none"
run = "bash pjdfstest/run /workspace/tree"
[[step]]
key = "parent"
run = "cp -r tree /tree"
[[step]]
key = "layer"
from = "parent"
cache = "none"
run = "bash pjdfstest/run /tree"
TOML
}

# The overlay's options and the sandbox are those of a step, the two directories are plain ones.
in_plain_overlay() {
  local capability
  local -a caps=(--cap-drop ALL)
  for capability in "${CAPABILITIES[@]}"; do caps+=(--cap-add "CAP_$capability"); done
  mkdir "$T/upper" "$T/work" "$T/root"
  # shellcheck disable=SC2016 # the inner shell's variables
  unshare -m bash -e -c '
    mount -t overlay overlay -o "nodev,userxattr,metacopy=off,index=off,xino=off,volatile" \
      -o "lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work" "$0/root"
    exec bwrap "$@"' "$T" \
    --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --new-session --die-with-parent \
    --ro-bind / / --proc /proc --dev /dev --bind "$T/root" /mnt --tmpfs /tmp \
    --ro-bind "$HERE" /tmp/pjdfstest "${caps[@]}" bash /tmp/pjdfstest/run /mnt
}

failures_of() {
  awk '$3 == "failed" { print $1, $2 }' "$T/results/$1" | sort
}

# report TREE: its figures, and what failed only there; returns 1 if anything did.
report() {
  local only
  printf '%s: %d tests, %d failed\n' "$1" "$(grep -c . "$T/results/$1")" \
    "$(failures_of "$1" | wc -l)"
  [[ $1 != plain ]] || return 0
  only=$(comm -13 <(failures_of plain) <(failures_of "$1"))
  [[ -n $only ]] || return 0
  printf '%s\n' "$only" | while read -r file number; do
    printf '  only here: %s\n' "$(grep -F -m 1 "$file $number failed" "$T/results/$1")"
  done
  return 1
}

build >"$T/build.log" 2>&1 || { tail -n 20 "$T/build.log" >&2; exit 1; }
(cd "$HERE/tests" && find "${@:-.}" -name '*.t') | sed 's,^\./,,' | sort >"$HERE/list"
make_tree "$T/ws/tree"
make_tree "$T/lower"
write_runner
write_pipeline

in_plain_overlay >"$T/results/plain"
"$HM" run -d "$T/ws" --parallelism 1
for tree in "${TREES[@]}"; do "$HM" log -d "$T/ws" "$tree" >"$T/results/$tree"; done

sandboxes=$(grep -h '^sandbox ' "$T/results"/* | sort -u)
if [[ $(wc -l <<<"$sandboxes") != 1 ]]; then
  printf 'the sandboxes differ, nothing is compared:\n%s\n' "$sandboxes" >&2
  exit 1
fi
rc=0
printf 'failed in plain overlayfs, too:'
awk '$3 == "failed" { count[$1]++ }
  END { for (file in count) printf " %s (%d)", file, count[file]; print "" }' "$T/results/plain"
for tree in plain "${TREES[@]}"; do report "$tree" || rc=1; done
exit "$rc"
