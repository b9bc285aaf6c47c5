# shellcheck shell=bash
# Virtual machines in the harness, which lib.sh sources. With HM_TEST_BACKEND=vm every run_hm of a
# script uses them, so that any script can be played there:
#
#   HM_TEST_BACKEND=vm tests/e2e/soundness.sh
#
# Cases share the guests that have booted, in a folder of their user's, since a boot takes longer
# than a case. They are small, and emulated wherever there is no KVM: cases get more time.

E2E_GUESTS=/var/tmp/hm-test-guests-$(id -u)
# shellcheck disable=SC2034 # lib.sh's
if [[ ${HM_TEST_BACKEND:-} == vm ]]; then E2E_DEFAULT_TIMEOUT=600; fi

# Prints the kernel for guests: an installed one, or the one that tools/setup has unpacked.
guest_kernel() {
  local image
  for image in /boot/vmlinuz-*-amd64 /var/lib/hmtest/kernel/boot/vmlinuz-*-amd64; do
    if [[ -r $image ]]; then
      printf '%s\n' "$image"
      return
    fi
  done
}

needs_vm() {
  [[ -n $(guest_kernel) ]] || skip 'no kernel for virtual machines: run tools/setup'
  needs_command qemu-system-x86_64 mke2fs
}

# Sets this case's workspace and store up for --backend vm.
use_vm() {
  needs_vm
  mkdir -p "$W/.hm" "$HM_HOME" "$E2E_GUESTS"
  chmod 700 "$HM_HOME"
  ln -s "$E2E_GUESTS" "$HM_HOME/vm"
  printf '[vm]\nkernel = "%s"\nmemory = "512M"\ncpus = 1\n' "$(guest_kernel)" >"$W/.hm/config.toml"
}

# Every machine that runs below the case in DIR, by what it has open there or by its environment.
machines_of() {
  local proc
  for proc in $(pgrep -x qemu-system-x86); do
    if grep -qzxF "HM_E2E_CASE=$1" "/proc/$proc/environ" 2>/dev/null; then printf '%s\n' "$proc"; fi
  done
}

no_machines_of() {
  [[ -z $(machines_of "$1") ]]
}
