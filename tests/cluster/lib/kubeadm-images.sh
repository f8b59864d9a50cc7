# shellcheck shell=bash
# The images that kubeadm wants besides those of images.sh: the control plane, etcd, CoreDNS under kubeadm's tag, and a network
# of pods for a DaemonSet. One archive in the cache, imported on each node of `up --bare`.

# is_bare: whether the cluster was brought up for kubeadm
is_bare() { [[ -e $(run_dir)/bare ]]; }

kubeadm_images_archive() {
    local revision
    revision=$(cat "$CLUSTER_HOME"/lib/{kubeadm-images,versions}.sh "$CLUSTER_HOME"/images/assemble.py "$REPO_ROOT"/cni-conf/* | sha256sum | cut -c1-12)
    echo "$CACHE/kubeadm-images-$revision/all.tar"
}

need_kubeadm_images() {
    need_sets k8s k8s-node coredns cni
    need_images
    [[ -e $(kubeadm_images_archive) ]] || with_lock "$CACHE/.lock-images" build_kubeadm_images
}

build_kubeadm_images() {
    local dir
    dir=$(dirname "$(kubeadm_images_archive)")
    build_aside "$dir" "the archive of kubeadm's images" make_kubeadm_archive
    find "$CACHE" -maxdepth 1 -name 'kubeadm-images-*' ! -path "$dir" -exec rm -rf {} +
}

make_kubeadm_archive() {
    local out=$1 layers
    layers=$(mktemp -d)
    kubeadm_image_spec "$layers" >"$layers.json" &&
        /usr/bin/python3 "$CLUSTER_HOME/images/assemble.py" "$out/all.tar" <"$layers.json" &&
        rm -rf "$layers" "$layers.json"
}

# kubeadm_image_spec LAYERS: each program of the list that kubeadm gives, under the tag that it gives
kubeadm_image_spec() {
    local ref program layers=$1 more=() spec=()
    while read -r ref; do
        program=${ref##*/} program=${program%:*}
        case $program in
        pause) [[ $ref != "$PAUSE_IMAGE" ]] || continue && more=("$(init_binary)") ;;
        kube-proxy) continue ;; # one of those of images.sh
        coredns) more=("$(set_dir coredns)/coredns") ;;
        *) more=("$(set_dir k8s)/$program") ;;
        esac
        mkdir -p "$layers/$program/usr/local/bin"
        cp "${more[@]}" "$layers/$program/usr/local/bin/"
        spec+=("{\"ref\": \"$ref\", \"layers\": [\"$layers/$program\"], \"config\": {\"Entrypoint\": [\"/usr/local/bin/$program\"]}}")
    done < <("$(set_dir k8s-node)/kubeadm" config images list --kubernetes-version "v$K8S_VERSION")
    mkdir -p "$layers"/cni/{opt/cni,usr/local/bin}
    cp "$(set_dir cni)"/* "$REPO_ROOT/cni-conf/10-rkubelet.conflist" "$layers/cni/opt/cni/"
    cp "$(set_dir k8s)/kubectl" "$layers/cni/usr/local/bin/"
    spec+=("{\"ref\": \"$IMAGE_REPO/rkubelet-test/cni:v1\", \"layers\": [\"$CACHE/base-$BASE_SUITE/base.tar\", \"$layers/cni\"], \"config\": {}}")
    chmod -R go+rX "$layers"
    (IFS=, && echo "[${spec[*]}]")
}

# import_kubeadm_images NODE
import_kubeadm_images() {
    node_ctr "$1" images import --no-unpack "$(kubeadm_images_archive)" >/dev/null
}
