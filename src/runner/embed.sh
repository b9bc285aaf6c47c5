#!/usr/bin/env bash
# embed.sh PROGRAM OUTPUT.cc NAME: a source file that brings the program's bytes into hm, between the
# symbols NAME_begin and NAME_end. Its digest makes the compiler look again.
set -euo pipefail
program=$(realpath "$1")
cat >"$2" <<CODE
// $(sha256sum <"$program")
asm(".section .rodata\n"
    ".global $3_begin, $3_end\n"
    "$3_begin:\n"
    ".incbin \"$program\"\n"
    "$3_end:\n"
    ".byte 0\n"
    ".previous\n");
CODE
