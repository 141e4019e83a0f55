#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# stay.sh <program> <argument>...: stays a while where the program failed. MPICH's launcher ends
# the whole job at once when a process of it goes, whatever it is told, and peers had no time to say
# what they saw; a launcher on another machine takes longer.
"$@"
status=$?
[ "$status" -eq 0 ] || sleep 5
exit "$status"
