#!/usr/bin/env bash
# A step's root behaves as a plain directory does: the same operations (tests/parity) on equal trees
# give the same results and errors, but for the accepted differences.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

PARITY_DIR=$E2E_DIR/../parity
for tree in image workspace parent step_itself; do case_timeout "test_tree_of_the_$tree" 900; done

# in_plain_sandbox ROOT COMMAND…: as a step's, but the root is a directory of the host.
in_plain_sandbox() {
  local root=$1 capability
  shift
  local -a args=(--cap-drop ALL)
  for capability in CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SETFCAP \
    NET_BIND_SERVICE NET_RAW SYS_CHROOT AUDIT_WRITE; do
    args+=(--cap-add "CAP_$capability")
  done
  if [[ $(id -u) != 0 ]]; then args+=(--unshare-user --uid 0 --gid 0); fi
  bwrap --unshare-pid --unshare-ipc --new-session --die-with-parent --bind "$root" / --proc /proc \
    --dev /dev "${args[@]}" "$@"
}

# An image whose only program makes trees and tries operations on them, and such a root beside it.
parity_image() {
  [[ -n ${PARITY_OPS:-} ]] || fail 'PARITY_OPS is not set: the parity_ops binary'
  IMAGE=$T/image
  LEVEL=acls
  if [[ $(id -u) == 0 ]]; then LEVEL=owners; fi
  mkdir -p "$IMAGE/bin" "$T/plain/bin"
  cp "$PARITY_OPS" "$IMAGE/bin/sh"
  cp "$PARITY_OPS" "$T/plain/bin/sh"
}

# same_as_plain TREE STEP LEVEL: the results that STEP logged are those of a plain directory.
same_as_plain() {
  in_plain_sandbox "$T/plain" sh -c "make /tree $3; run /tree $3" >"$T/expected"
  log_of "$2" >"$T/actual"
  "$PARITY_DIR/compare.py" "$1" "$T/expected" "$T/actual" "$PARITY_DIR/accepted.txt" ||
    fail "$1: a step differs from a plain directory"
}

test_tree_of_the_image() {
  parity_image
  in_plain_sandbox "$IMAGE" sh -c "make /tree $LEVEL"
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "run /tree $LEVEL"
TOML
  run_ok
  same_as_plain image s "$LEVEL"
}

test_tree_of_the_workspace() {
  parity_image
  "$PARITY_OPS" make "$W/tree" nothing
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "run /workspace/tree nothing"
TOML
  run_ok
  same_as_plain workspace s nothing
}

test_tree_of_the_parent() {
  parity_image
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "parent"
run = "make /tree $LEVEL"
[[step]]
key = "s"
from = "parent"
run = "run /tree $LEVEL"
TOML
  run_ok
  same_as_plain layer s "$LEVEL"
}

test_tree_of_the_step_itself() {
  parity_image
  pipeline_toml <<TOML
image = "$IMAGE"
[[step]]
key = "s"
run = "make /tree acls; run /tree acls"
TOML
  run_ok
  same_as_plain upper s acls
}

run_tests "$@"
