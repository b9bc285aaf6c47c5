#!/usr/bin/env bash
# What a parent did to its root is what its children see, whether the parent ran or was a hit.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

test_chmod_by_a_parent_of_a_file_edited_since() {
  write tool.sh '#!/bin/sh' 'echo version one'
  chmod 644 "$W/tool.sh"
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "chmod +x tool.sh"
[[step]]
key  = "child"
from = "parent"
run  = "./tool.sh; stat -c %a tool.sh"
TOML
  first_run_then_hits parent child
  assert_log child 'version one' 755
  write tool.sh '#!/bin/sh' 'echo version two'
  run_ok
  assert_ran child
  assert_log child 'version two' 755
  [[ $(stat -c %a "$W/tool.sh") == 644 ]] || fail 'the mode changed on the host'
}

test_sed_by_a_parent_is_seen_by_its_child() {
  write conf.txt 'mode old' 'colour red'
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "sed -i s/old/new/ conf.txt"
[[step]]
key  = "child"
from = "parent"
run  = "cat conf.txt"
TOML
  first_run_then_hits parent child
  assert_log child 'mode new' 'colour red'
  run_ok --rerun child
  assert_hit parent
  assert_ran child
  assert_log child 'mode new' 'colour red'
}

test_edit_of_a_file_a_parent_rewrote_runs_the_parent() {
  write conf.txt 'mode old' 'colour red'
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "sed -i s/old/new/ conf.txt"
[[step]]
key  = "child"
from = "parent"
run  = "cat conf.txt"
TOML
  first_run_then_hits parent child
  write conf.txt 'mode old' 'colour blue'
  run_ok
  assert_ran parent child
  assert_reason parent 'conf\.txt'
  assert_log child 'mode new' 'colour blue'
  [[ $(head -n 1 "$W/conf.txt") == 'mode old' ]] || fail 'the host file was rewritten'
}

test_directory_removed_by_a_parent_stays_removed() {
  write tracked/a.txt a
  write other.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "rm -rf tracked"
[[step]]
key  = "child"
from = "parent"
run  = "ls; cat other.txt; test ! -e tracked/a.txt && test ! -e tracked && echo gone"
TOML
  first_run_then_hits parent child
  assert_log child other.txt one gone
  write other.txt two
  run_ok
  assert_hit parent
  assert_ran child
  assert_log child other.txt two gone
}

test_directory_removed_by_a_parent_stays_removed_after_edits_inside() {
  write tracked/a.txt a
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "rm -rf tracked"
[[step]]
key  = "child"
from = "parent"
run  = "ls; test ! -e tracked && echo gone"
TOML
  first_run_then_hits parent child
  write tracked/a.txt 'edited and longer'
  write tracked/b.txt 'new in there'
  run_ok --rerun child
  assert_ran parent child
  assert_log child gone
}

test_directory_replaced_by_a_parent_hides_the_old_files() {
  write tracked/old.txt old
  write other.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "rm -rf tracked; mkdir tracked; echo new > tracked/new.txt"
[[step]]
key  = "child"
from = "parent"
run  = "ls tracked; cat other.txt"
TOML
  first_run_then_hits parent child
  write other.txt two
  run_ok
  assert_hit parent
  assert_ran child
  assert_log child new.txt two
}

test_directory_moved_by_a_parent_then_edited_inside() {
  write lib/deep/f.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "parent"
run = "mv lib moved"
[[step]]
key  = "child"
from = "parent"
run  = "cat moved/deep/f.txt; test ! -e lib && echo lib is gone"
TOML
  first_run_then_hits parent child
  assert_log child one 'lib is gone'
  write lib/deep/f.txt two
  run_ok
  assert_ran parent child
  assert_log child two 'lib is gone'
}

# The ignore file keeps the host's node_modules out; the one a parent made is there.
test_node_modules_of_a_cached_parent_is_there() {
  write .gitignore node_modules
  write node_modules/host.js 'made on the host'
  write package.json '{"name": "x"}'
  write test.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "deps"
run = "cat package.json; mkdir -p node_modules/dep; echo installed > node_modules/dep/index.js"
[[step]]
key  = "test"
from = "deps"
run  = "ls node_modules; cat node_modules/dep/index.js test.txt"
TOML
  first_run_then_hits deps test
  write test.txt two
  run_ok
  assert_hit deps
  assert_ran test
  assert_log test dep installed two
  write package.json '{"name": "y"}'
  run_ok
  assert_ran deps
}

make_project() {
  write Makefile '.RECIPEPREFIX = >' 'all: final' \
    'final: middle' '> @echo BUILT final; cat middle > final' \
    'middle: source.txt' '> @echo BUILT middle; cat source.txt > middle'
  write source.txt 'source one'
}

test_make_in_a_child_rebuilds_nothing() {
  needs_command make
  make_project
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "make"
[[step]]
key  = "check"
from = "build"
run  = "make; cat final"
[[step]]
key  = "again"
from = "check"
run  = "make; cat ./final"
TOML
  first_run_then_hits build check again
  assert_log_has build 'BUILT middle'
  assert_log_has check 'source one'
  assert_log_lacks check BUILT
  assert_log_lacks again BUILT
}

test_make_in_a_child_of_a_hit_rebuilds_nothing() {
  needs_command make
  make_project
  write other.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "make"
[[step]]
key  = "check"
from = "build"
run  = "make; cat final other.txt"
TOML
  first_run_then_hits build check
  sleep 1.1
  write other.txt two
  touch "$W/source.txt"
  run_ok
  assert_hit build
  assert_ran check
  assert_log_has check 'source one'
  assert_log_has check two
  assert_log_lacks check BUILT
}

test_make_after_an_edit_builds_in_the_parent_only() {
  needs_command make
  make_project
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "make"
[[step]]
key  = "check"
from = "build"
run  = "make; cat final"
TOML
  first_run_then_hits build check
  write source.txt 'source two'
  run_ok
  assert_ran build check
  assert_log build 'BUILT middle' 'BUILT final'
  assert_log_has check 'source two'
  assert_log_lacks check BUILT
}

test_make_rebuilds_what_a_child_edited() {
  needs_command make
  make_project
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "make"
[[step]]
key  = "edit"
from = "build"
run  = "echo source of the child > source.txt"
[[step]]
key  = "check"
from = "edit"
run  = "make; cat final"
TOML
  first_run_then_hits build edit check
  assert_log check 'BUILT middle' 'BUILT final' 'source of the child'
}

# The parent runs again, later than the cached child whose edit must still look newer.
test_make_rebuilds_what_a_cached_child_edited_before_its_parent_ran_again() {
  needs_command make
  make_project
  write stamp.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "make; cat stamp.txt > stamp"
[[step]]
key  = "edit"
from = "build"
run  = "echo source of the child > source.txt"
[[step]]
key  = "check"
from = "edit"
run  = "make; cat final stamp"
TOML
  first_run_then_hits build edit check
  sleep 1.1
  write stamp.txt two
  run_ok
  assert_ran build check
  assert_hit edit
  assert_log check 'BUILT middle' 'BUILT final' 'source of the child' two
}

# What python compiles or writes anew, from the trace of `python3 -v`.
PYTHON_COMPILED="grep -E \"code object from '[^']*[.]py'|^# wrote \" trace"

test_pyc_of_the_host_image_stays_valid() {
  [[ -x /usr/bin/python3 ]] || skip 'needs /usr/bin/python3'
  local code='import json, string'
  if env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -v -c "$code" 2>&1 |
    grep -qE "code object from '[^']*[.]py'"; then
    skip "the host's own .pyc files are not valid"
  fi
  pipeline_toml <<TOML
[[step]]
key = "s"
run = '''
/usr/bin/python3 -v -c "$code" 2> trace
if $PYTHON_COMPILED; then echo compiled again; else echo nothing compiled; fi
grep -c ' matches ' trace > matches
test -s matches && test "\$(cat matches)" -gt 5 && echo valid'''
TOML
  run_ok
  assert_log s 'nothing compiled' valid
}

test_pyc_of_a_parents_install_stays_valid() {
  [[ -x /usr/bin/python3 ]] || skip 'needs /usr/bin/python3'
  write other.txt one
  pipeline_toml <<TOML
[env]
PYTHONPATH = "/opt/site"
[[step]]
key = "install"
run = '''
mkdir -p /opt/site/fresh /opt/site/aged
echo "NAME = 'fresh'" > /opt/site/fresh/__init__.py
echo "NAME = 'aged'" > /opt/site/aged/__init__.py
touch -d '2001-02-03 04:05:06' /opt/site/aged/__init__.py
/usr/bin/python3 -m compileall -q /opt/site
ls /opt/site/fresh/__pycache__ | wc -l'''
[[step]]
key = "use"
from = "install"
run = '''
/usr/bin/python3 -v -c "import fresh, aged; print(fresh.NAME, aged.NAME)" 2> trace
if $PYTHON_COMPILED; then echo compiled again; else echo nothing compiled; fi
grep -c 'site/.* matches ' trace
cat other.txt'''
TOML
  first_run_then_hits install use
  assert_log install 1
  assert_log use 'fresh aged' 'nothing compiled' 2 one
  sleep 1.1
  write other.txt two
  run_ok
  assert_hit install
  assert_ran use
  assert_log use 'fresh aged' 'nothing compiled' 2 two
}

test_export_brings_out_what_a_step_made() {
  write in.txt one
  pipeline_toml <<'TOML'
[[step]]
key = "build"
run = "mkdir -p out/bin; cat in.txt > out/bin/tool; chmod 755 out/bin/tool; ln -s bin/tool out/link"
TOML
  first_run_then_hits build
  local dest
  dest=$(exported build /workspace/out)
  [[ $(cat "$dest/bin/tool") == one && $(readlink "$dest/link") == bin/tool ]] ||
    fail 'the exported tree is not what the step made'
  [[ $(stat -c %a "$dest/bin/tool") == 755 ]] || fail 'the exported tool lost its mode'
  [[ ! -e $W/out ]] || fail 'the step wrote to the host'
}

run_tests "$@"
