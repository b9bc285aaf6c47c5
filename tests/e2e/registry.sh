# shellcheck shell=bash
# A registry of images for the cases that pull, sourced behind lib.sh.

# Debian's registry on the loopback; sets REGISTRY. It ends with `stop_registry`.
start_registry() {
  local port first
  needs_command docker-registry
  first=$((5100 + $(id -u) % 100 * 10)) # others run these cases at the same time
  for ((port = first; port < first + 10; port++)); do
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  REGISTRY=127.0.0.1:$port
  cat >"$T/registry.yml" <<YAML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $T/registry } }
http: { addr: "$REGISTRY" }
YAML
  docker-registry serve "$T/registry.yml" >"$T/registry.log" 2>&1 &
  REGISTRY_PID=$!
  trap stop_registry EXIT
  wait_until 20 registry_answers || fail "no registry: $(tail -n 3 "$T/registry.log")"
}

registry_answers() {
  (: <>"/dev/tcp/${REGISTRY%:*}/${REGISTRY#*:}") 2>/dev/null
}

stop_registry() {
  kill "$REGISTRY_PID" 2>/dev/null || true
  wait "$REGISTRY_PID" 2>/dev/null || true
}
