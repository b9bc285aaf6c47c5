#!/usr/bin/env bash
# The scenario this project began with: cached system steps below a step that reads package.json.
# Naming a package manager in package.json must reach `deps`, and a README must reach nobody.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

REAL_TIMEOUT=300
if [[ ${HM_TEST_BACKEND:-} == vm ]]; then REAL_TIMEOUT=1800; fi
case_timeout test_seed_with_the_real_corepack_and_pnpm_from_toml "$REAL_TIMEOUT"
case_timeout test_seed_with_the_real_corepack_and_pnpm_from_ir "$REAL_TIMEOUT"

# Asked once, as the user who called us: only that user's npm knows its registry.
before_cases() {
  E2E_REGISTRY=
  E2E_NO_REGISTRY='no npm or corepack in /usr/bin'
  if [[ -x /usr/bin/npm && -x /usr/bin/corepack && -x /usr/bin/node ]]; then
    E2E_REGISTRY=$(timeout 20 /usr/bin/npm config get registry 2>/dev/null)
    E2E_NO_REGISTRY='the npm registry does not answer within 20 s'
    if timeout 20 /usr/bin/npm ping >/dev/null 2>&1; then E2E_NO_REGISTRY=; fi
  fi
  export E2E_REGISTRY E2E_NO_REGISTRY
}

# The commands of the four steps, as stand-ins: `install` brings a corepack whose pnpm says which
# version package.json asks for.
# shellcheck disable=SC2016 # the steps' shells expand these, not this one
stand_in_steps() {
  APT_BASE='mkdir -p /usr/local/share/stand-in
cat > /usr/local/share/stand-in/pnpm <<"END"
#!/bin/sh
version=$(sed -n "s/.*\"packageManager\" *: *\"pnpm@\([^\"]*\)\".*/\1/p" /workspace/package.json)
version=${version:-8.0.0}
if [ "$1" = install ]; then
  mkdir -p node_modules
  echo "$version" > node_modules/installed-by
fi
echo "pnpm $version"
END'
  INSTALL='cat > /usr/local/bin/corepack <<"END"
#!/bin/sh
[ "$1 $2" = "enable pnpm" ] || exit 64
cp /usr/local/share/stand-in/pnpm /usr/local/bin/pnpm
chmod 755 /usr/local/bin/pnpm
END
chmod 755 /usr/local/bin/corepack'
  PNPM='/usr/local/bin/corepack enable pnpm'
  DEPS='/usr/local/bin/pnpm install'
}

# shellcheck disable=SC2016
real_steps() {
  APT_BASE='apt-get --version > /opt/apt-version'
  INSTALL='node --version > /opt/node-version && corepack --version'
  PNPM='corepack enable pnpm'
  DEPS='pnpm install && echo "pnpm $(pnpm --version)"'
}

seed_as_toml() {
  pipeline_toml <<TOML
[[step]]
key   = "apt-base"
run   = $(printf %s "$APT_BASE" | quoted)
cache = "forever"
[[step]]
key   = "install"
from  = "apt-base"
run   = $(printf %s "$INSTALL" | quoted)
cache = "forever"
[[step]]
key   = "pnpm"
from  = "install"
run   = $(printf %s "$PNPM" | quoted)
cache = "forever"
[[step]]
key  = "deps"
from = "pnpm"
run  = $(printf %s "$DEPS" | quoted)
TOML
}

seed_as_ir() {
  jq -n --arg apt "$APT_BASE" --arg install "$INSTALL" --arg pnpm "$PNPM" --arg deps "$DEPS" '
    def forever($key; $cmd): {step: {key: $key, cmd: $cmd,
        cache: {policy: "forever", env_keys: [], key: ("of " + $key)}}, env: {}};
    {version: "0", graph: {
      nodes: [forever("apt-base"; $apt), forever("install"; $install), forever("pnpm"; $pnpm),
              {step: {key: "deps", cmd: $deps}, env: {}}],
      node_holes: [], edge_property: "directed",
      edges: [[0, 1, "builds_in"], [1, 2, "builds_in"], [2, 3, "builds_in"]]}}' \
    >"$W/.hm/$PIPELINE.json"
}

# play_seed RUN-OPTION…: the scenario, once the pipeline is written.
play_seed() {
  write README.md readme
  write package.json '{' '  "name": "seed",' '  "version": "1.0.0"' '}'
  run_ok "$@"
  assert_ran apt-base install pnpm deps
  assert_log_has deps 'pnpm '
  assert_log_lacks deps 'pnpm 9.15.0'

  write package.json '{' '  "name": "seed",' '  "version": "1.0.0",' \
    '  "packageManager": "pnpm@9.15.0"' '}'
  run_ok "$@"
  assert_hit apt-base install pnpm
  assert_ran deps
  assert_reason deps 'package\.json'
  assert_log_has deps 'pnpm 9.15.0'

  write README.md 'another readme'
  run_ok "$@"
  assert_hit apt-base install pnpm deps
  assert_log_has deps 'pnpm 9.15.0'
}

test_seed_with_stand_ins_from_toml() {
  stand_in_steps
  seed_as_toml
  play_seed
}

test_seed_with_stand_ins_from_ir() {
  stand_in_steps
  seed_as_ir
  play_seed
}

# What the host's npm needs to reach its registry goes in by -e: it is in no file of the project.
play_real_seed() {
  [[ -z $E2E_NO_REGISTRY ]] || skip "$E2E_NO_REGISTRY"
  local -a options=(
    -e COREPACK_INTEGRITY_KEYS=0
    -e COREPACK_DEFAULT_TO_LATEST=0
    -e COREPACK_ENABLE_DOWNLOAD_PROMPT=0
    -e CI=true
    -e "npm_config_registry=$E2E_REGISTRY"
    -e "COREPACK_NPM_REGISTRY=${E2E_REGISTRY%/}"
  )
  local name
  for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    if [[ -n ${!name:-} ]]; then options+=(-e "$name=${!name}"); fi
  done
  local certs=${NODE_EXTRA_CA_CERTS:-}
  if [[ $certs == /etc/* && -n $(find -L "$certs" -perm -004 2>/dev/null) ]]; then
    options+=(-e "NODE_EXTRA_CA_CERTS=$certs")
  fi
  if [[ ${HM_TEST_BACKEND:-} == vm ]]; then
    options=("${options[@]//127.0.0.1/10.0.2.2}") # this machine, seen from a virtual one
    sed -i 's/512M/1G/' "$W/.hm/config.toml"
  fi
  play_seed "${options[@]}"
}

test_seed_with_the_real_corepack_and_pnpm_from_toml() {
  real_steps
  seed_as_toml
  play_real_seed
}

test_seed_with_the_real_corepack_and_pnpm_from_ir() {
  real_steps
  seed_as_ir
  play_real_seed
}

run_tests "$@"
