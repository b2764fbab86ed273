#!/bin/sh
# A command for finished jobs: append one line to a list, and make the subtitles readable by all.
#
#     [[inbox]]
#     on_done = ["/usr/local/bin/on_done.sh", "/srv/subtitled/done.tsv"]
#
# The daemon passes the facts of the job in SUBTITLED_… and as JSON on standard input; see docs/operations.md. A status
# other than 0 is logged as a failure.
set -eu
list=$1
printf '%s\t%s\t%s\n' "$SUBTITLED_JOB" "$SUBTITLED_LANGUAGE" "$SUBTITLED_FILE" >> "$list"
# One path for each line.
printf '%s\n' "$SUBTITLED_OUTPUTS" | while IFS= read -r path; do
	chmod a+r "$path"
done
