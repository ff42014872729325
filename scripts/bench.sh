#!/usr/bin/env bash
# Measures whole commands of kfs beside other tools, on one machine in one run, and prints Markdown.
# Every figure is the median of several runs, the sides taking turns.
#   scripts/bench.sh files [FILES...]   mount, walk, index, read: an image of so many files
#   scripts/bench.sh cold-start         from a registry to a program's exit
#   scripts/bench.sh build              builds, first and again
#   scripts/bench.sh                    all of it: about an hour and 30 GB
set -euo pipefail
here=$(dirname "$0")/bench
case ${1:-all} in
    files | cold-start | build)
        what=$1
        shift
        exec "$here/$what.sh" "$@"
        ;;
    all)
        for what in files cold-start build; do
            "$here/$what.sh"
        done
        ;;
    *)
        printf 'usage: %s [files [FILES...] | cold-start | build]\n' "$0" >&2
        exit 2
        ;;
esac
