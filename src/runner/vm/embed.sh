#!/usr/bin/env bash
# embed.sh PROGRAM OUTPUT.cc: a source file that brings the program's bytes into hm, between the
# symbols hm_guest_init_begin and hm_guest_init_end. Its digest makes the compiler look again.
set -euo pipefail
program=$(realpath "$1")
cat >"$2" <<CODE
// $(sha256sum <"$program")
asm(".section .rodata\n"
    ".global hm_guest_init_begin, hm_guest_init_end\n"
    "hm_guest_init_begin:\n"
    ".incbin \"$program\"\n"
    "hm_guest_init_end:\n"
    ".byte 0\n"
    ".previous\n");
CODE
