#!/usr/bin/env bash
# A cluster image whose 30 charts name 30 images of 1.5 GB: built first, again, and with one tag
# changed; then one of those images pulled out of it, beside podman with all of it and docker-registry.
#   scripts/bench/cluster.sh
. "$(dirname "$0")/lib.sh"
. "$repo/scripts/bench/registry.sh"

storage=$work/registry
# PIDs of what serves, by a line: it is started in subshells.
served=$work/served
: >"$served"
cleanup() {
    cd "$repo"
    local pid
    for pid in "${registry_pid:-}" "${proxy_pid:-}" $(cat "$served"); do
        kill "$pid" 2>/dev/null || true
    done
    podman image umount --all >/dev/null 2>&1 || true
    umount "$work/podman/overlay" 2>/dev/null || true
    rm -rf "$work" "$short"
}
short=$(mktemp -d)
trap cleanup EXIT

images=30
podman() {
    command podman --root "$work/podman" --runroot "$short" --storage-driver overlay "$@"
}

# start_proxy [NET]: before the registry, at an address that stays the same.
start_proxy() {
    kfs --quiet bench proxy "$registry" --listen "$proxy" --log ${1:+--net "$1"} >"$work/requests" &
    proxy_pid=$!
    wait_for "$proxy"
}
wait_for() {
    local i
    for i in $(seq 200); do
        (: <>"/dev/tcp/${1/://}") 2>/dev/null && return
        sleep 0.05
    done
    die "nothing listens at $1"
}
# stop_proxy: sets $crossed to the bytes that went through.
stop_proxy() {
    kill -INT "$proxy_pid"
    wait "$proxy_pid" || true
    proxy_pid=
    crossed=$(python3 -c 'import json, sys; print(sum(json.loads(line)["bytes"] for line in sys.stdin if line[0] == "{"))' <"$work/requests")
}

megabytes() { calc "$1/1e6" 1; }

make_apps() {
    say "$images images of $((images * 50)) MB"
    local i
    mkdir -p "$work/app" "$work/context/charts"
    printf 'FROM scratch\nCOPY data /data\n' >"$work/app/Dockerfile"
    for i in $(seq "$images"); do make_app "$i" v1; done
    make_app 7 v2
    for i in $(seq "$images"); do
        local chart=$work/context/charts/app-$i
        mkdir -p "$chart/templates"
        printf 'apiVersion: v2\nname: app-%s\nversion: 1.0.0\n' "$i" >"$chart/Chart.yaml"
        printf 'image: {repository: %s/team/app-%s, tag: v1}\n' "$proxy" "$i" >"$chart/values.yaml"
        cat >"$chart/templates/deployment.yaml" <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  template:
    spec:
      containers: [{name: main, image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"}]
YAML
    done
    printf 'FROM scratch\nCOPY charts .\n' >"$work/context/Kubefile"
}

make_app() {
    rm -rf "$work/app/data"
    mkdir "$work/app/data"
    head -c 50M /dev/urandom | split -b 1M - "$work/app/data/part-"
    KFS_ROOT=$work/apps kfs --quiet build --compression gzip -t "$registry/team/app-$1:$2" "$work/app" >/dev/null
    KFS_ROOT=$work/apps kfs --quiet push --plain-http "$registry/team/app-$1:$2" >/dev/null
}

# build WHAT: a row.
build() {
    start_proxy
    local us memory
    us=$(took command time -o "$work/memory" -f %M \
        kfs --quiet build --plain-http -f "$work/context/Kubefile" -t "$registry/cluster:v1" "$work/context")
    memory=$(tail -n 1 "$work/memory")
    stop_proxy
    row "$1" "$(seconds "$us")" "$(megabytes "$crossed")" "$(calc "$memory*1024/1e6" 0)"
}

# Out of the cluster image where it is, by `kfs registry serve`.
serve_one() {
    local address=127.0.0.1:$(free_port)
    KFS_ROOT=$work/empty-store kfs --quiet registry serve --plain-http --addr "$address" "$proxy/cluster:v1" &
    echo $! >>"$served"
    wait_for "$address"
    podman pull --quiet --tls-verify=false "$address/team/app-9:v1"
}

# As without it: all of the cluster image, unpacked, with docker-registry over it.
pull_all() {
    local address=127.0.0.1:$(free_port) root
    podman pull --quiet --tls-verify=false "$proxy/cluster:v1"
    root=$(podman image mount "$proxy/cluster:v1")
    cat >"$work/unpacked.yml" <<YML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $root/registry }, maintenance: { readonly: { enabled: true } } }
http: { addr: $address }
YML
    docker-registry serve "$work/unpacked.yml" &
    echo $! >>"$served"
    wait_for "$address"
    podman pull --quiet --tls-verify=false "$address/team/app-9:v1"
}

proxy=127.0.0.1:$(free_port)
start_registry
make_apps
machine podman
printf '`docker-registry` on this machine; %s charts name %s images of 50 MB each.\n' "$images" "$images"
head_row "Building a cluster image of 1.5 GB, one run each" "what" "s" "MB fetched" "MB of memory"
build "first"
build "again"
sed -i 's/tag: v1/tag: v2/' "$work/context/charts/app-7/values.yaml"
build "one tag changed"

KFS_ROOT=$work/store kfs --quiet push --plain-http "$registry/cluster:v1" >/dev/null
head_row "One image out of it, at 1 Gbit/s and 20 ms, one run each" "what" "s" "MB over the net"
for how in serve_one pull_all; do
    start_proxy 1gbit,20ms
    us=$(took "$how")
    stop_proxy
    case $how in
        serve_one) text='`kfs registry serve` on an empty store, `podman pull` of one image' ;;
        pull_all) text='`podman pull` of all, `docker-registry` over it, `podman pull` of one image' ;;
    esac
    row "$text" "$(seconds "$us")" "$(megabytes "$crossed")"
done
