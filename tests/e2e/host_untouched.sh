#!/usr/bin/env bash
# The host is never written, and what is private on it does not get in.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# fingerprint DIR: every path with inode, ctime, size and mode.
fingerprint() {
  find "$1" -printf '%p %i %C@ %s %m\n' 2>/dev/null | sort || true
}

# assert_unchanged DIR BEFORE
assert_unchanged() {
  local after
  after=$(fingerprint "$1")
  [[ $after == "$2" ]] || fail "$1 changed: $(diff <(printf '%s\n' "$2") <(printf '%s\n' "$after"))"
}

test_workspace_is_not_written() {
  write f.txt one
  write dir/a.txt a
  write dir/sub/b.txt b
  write tool.sh 'echo tool'
  ln -s f.txt "$W/link"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''
echo changed >> f.txt; rm -rf dir; chmod 777 tool.sh; echo new > new.txt; mkdir made
ln -sfn tool.sh link; mv tool.sh other.sh; touch -d 2001-01-01 f.txt; chmod 700 .
cat f.txt new.txt; test ! -e dir && test ! -e tool.sh && echo done'''
[[step]]
key  = "child"
from = "s"
run  = "cat f.txt new.txt; test ! -e dir && echo gone"
TOML
  local before
  before=$(fingerprint "$W")
  run_ok
  assert_log s one changed new 'done'
  assert_log child one changed new gone
  assert_unchanged "$W" "$before"
  run_ok
  assert_hit s child
  assert_unchanged "$W" "$before"
}

# With new names and with modes that are set to what they are already: harmless were it to go
# wrong, and still visible in the fingerprint as a new path or a new ctime.
test_etc_and_opt_are_not_written() {
  local name=hm-e2e-${T##*.}
  pipeline_toml <<TOML
[[step]]
key = "s"
run = '''
echo probe > /etc/$name && echo probe > /opt/$name && mkdir /etc/$name.d
chmod "\$(stat -c %a /etc/passwd)" /etc/passwd && chmod "\$(stat -c %a /opt)" /opt
cat /etc/$name /opt/$name; ls -d /etc/$name.d'''
TOML
  local etc opt
  etc=$(fingerprint /etc)
  opt=$(fingerprint /opt)
  run_ok
  assert_log s probe probe "/etc/$name.d"
  assert_unchanged /etc "$etc"
  assert_unchanged /opt "$opt"
}

# Only once a harmless write has shown that /etc of a step is not the host's.
test_files_of_etc_are_not_deleted_or_rewritten() {
  local name=hm-e2e-${T##*.} etc
  pipeline_toml <<TOML
[[step]]
key = "guard"
run = "echo probe > /etc/$name && cat /etc/$name"
TOML
  etc=$(fingerprint /etc)
  run_ok
  assert_unchanged /etc "$etc"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''
echo changed >> /etc/issue; chmod 600 /etc/issue; rm -rf /etc/skel /etc/debian_version
tail -n 1 /etc/issue; stat -c %a /etc/issue; test ! -e /etc/debian_version && echo gone'''
TOML
  run_ok
  assert_log s changed 600 gone
  assert_unchanged /etc "$etc"
}

test_root_and_home_are_empty_inside() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = 'ls -A /root /home; echo "HOME is $HOME"'
TOML
  run_ok
  assert_log s /home: '' /root: 'HOME is /root'
}

test_root_only_file_is_absent() {
  [[ -e /etc/shadow && -z $(find /etc/shadow -perm -004) ]] || skip 'no private /etc/shadow here'
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = '''
if test -e /etc/shadow; then echo /etc/shadow is there; fi
if ls -A /etc | grep -qx shadow; then echo /etc/shadow is listed; fi
test -e /etc/passwd && echo /etc/passwd is there'''
TOML
  run_ok
  assert_log s '/etc/passwd is there'
}

test_root_only_file_below_opt_is_absent() {
  needs_root 'makes a private file below /opt'
  local dir
  dir=$(mktemp -d /opt/hm-e2e.XXXXXX)
  REMOVE_AT_END+=("$dir")
  chmod 755 "$dir"
  echo public >"$dir/public"
  echo "bytes-of-${T##*.}" >"$dir/private"
  chmod 644 "$dir/public"
  chmod 600 "$dir/private"
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "ls -A $dir; cat $dir/public; test -e $dir/private && echo private is there || echo absent"
TOML
  run_ok
  assert_log s public public absent
  ! grep -rqF "bytes-of-${T##*.}" "$HM_HOME" || fail 'the private file is in the store'
}

test_tmp_run_and_other_homes_of_the_host_are_hidden() {
  echo outside >"$T/outside"
  pipeline_toml <<TOML
[[step]]
key = "s"
run = "test -e $T/outside && echo seen; test -e $HM_HOME && echo store seen; ls -A /tmp /var/tmp"
TOML
  run_ok
  assert_log s /tmp: '' /var/tmp:
}

test_other_environment_of_the_caller_does_not_get_in() {
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = "env"
TOML
  HM_E2E_PRIVATE=value-of-the-caller run_ok
  assert_log_lacks s value-of-the-caller
  assert_log_has s HOME=/root
}

# The secret is handed to a step that uses it and prints its length only.
test_secret_of_the_environment_is_in_no_file_of_the_store() {
  local secret="s3cret-${T##*.}-value" marker="marker-${T##*.}"
  pipeline_toml <<TOML
[[step]]
key = "s"
run = 'printf %s "\$TOKEN" | wc -c; echo $marker > out.txt'
TOML
  run_ok -e "TOKEN=$secret"
  assert_log s "${#secret}"
  run_ok -e "TOKEN=$secret"
  assert_hit s
  grep -rqF "$marker" "$HM_HOME" || fail 'cannot look into the store: the marker is not found'
  ! grep -rlaF "$secret" "$HM_HOME" || fail 'the secret is in the store'
  ! grep -F "$secret" "$T"/run* || fail 'the secret is in the events or on stderr'
  run_ok -e "TOKEN=$secret-and-more"
  assert_ran s
  ! grep -rlaF "$secret" "$HM_HOME" || fail 'the changed secret is in the store'
  ! grep -F "$secret" "$T"/run* || fail 'the changed secret is in the events or on stderr'
}

test_secret_of_a_failing_step_is_in_no_file_of_the_store() {
  local secret="s3cret-${T##*.}-value"
  pipeline_toml <<'TOML'
[[step]]
key = "s"
run = 'test -n "$TOKEN"; exit 3'
TOML
  run_rc 1 -e "TOKEN=$secret"
  ! grep -rlaF "$secret" "$HM_HOME" || fail 'the secret is in the store'
  ! grep -F "$secret" "$T"/run* || fail 'the secret is in the events or on stderr'
}

run_tests "$@"
