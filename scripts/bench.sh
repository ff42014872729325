#!/usr/bin/env bash
# Measures kfs beside other tools, on one machine in one run, and writes benches/RESULTS.md. Figures
# are medians, the sides taking turns; where there was but one run, that is said.
#   scripts/bench.sh                    all of it: some 20 minutes and 20 GB
#   scripts/bench.sh cold-start         from a registry to a program's exit
#   scripts/bench.sh files [FILES...]   mount, walk, index, read: an image of so many files
#   scripts/bench.sh build              builds, first and again
#   scripts/bench.sh cluster            a cluster image of 30 app images
# A section that is measured alone takes the place of the one in the results; the others stay.
# What cold-start measured of this very kfs is not measured again: remove target/bench-results for that.
#   BENCH_REGISTRY=DIR    where docker-registry keeps the images [target/bench-registry]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
results=$target/bench-results
sections=(cold-start files build cluster)

case ${1:-all} in
    all) wanted=("${sections[@]}") ;;
    cold-start | files | build | cluster) wanted=("$1") ;;
    *)
        sed -n '2,/^set /s/^# \{0,1\}//p' scripts/bench.sh >&2
        exit 2
        ;;
esac
[ $# = 0 ] || shift

# What is there so far.
write_results() {
    local section
    {
        printf '# Results\n\n'
        printf '`scripts/bench.sh` wrote this. Trust the ratios inside one table more than the seconds.\n'
        for section in "${sections[@]}"; do
            [ -e "$results/$section.md" ] || continue
            printf '\n## %s\n\n' "$section"
            cat "$results/$section.md"
        done
    } >benches/RESULTS.md.part
    mv benches/RESULTS.md.part benches/RESULTS.md
}

mkdir -p "$results"
for section in "${wanted[@]}"; do
    began=$SECONDS
    # No half of a section ever stands there.
    scripts/bench/"$section".sh "$@" >"$results/$section.part"
    printf '\n`scripts/bench.sh %s` took %s s.\n' "$section" "$((SECONDS - began))" >>"$results/$section.part"
    mv "$results/$section.part" "$results/$section.md"
    cat "$results/$section.md"
    write_results
done
