# shellcheck shell=bash
# The keys of one cluster: its CA, what each component shows, and the kubeconfigs made of them. As kubeadm lays them out.

# make_ca FILE CN
make_ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$2" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature \
        -keyout "$1.key" -out "$1.crt" 2>/dev/null
}

# make_cert CA FILE SUBJECT [SAN]: a client certificate, or with SAN a serving one
make_cert() {
    local ca=$1 file=$2 subject=$3 san=${4:-} usage=clientAuth
    [[ $san ]] && usage=serverAuth
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" \
        -keyout "$file.key" -out "$file.csr" 2>/dev/null
    openssl x509 -req -in "$file.csr" -CA "$ca.crt" -CAkey "$ca.key" -days 365 -out "$file.crt" \
        -set_serial "0x$(openssl rand -hex 8)" -extfile <(
            echo "keyUsage=critical,digitalSignature"
            echo "extendedKeyUsage=$usage"
            [[ -z $san ]] || echo "subjectAltName=$san"
        ) 2>/dev/null
    rm "$file.csr"
}

# make_kubeconfig FILE USER CERT: everything inline, so that the file may be copied
make_kubeconfig() {
    local pki cert=$3
    pki=$(run_dir)/pki
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: $NAME
clusters:
- name: $NAME
  cluster:
    server: https://$API_IP:6443
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
contexts:
- name: $NAME
  context: {cluster: $NAME, user: "$2"}
users:
- name: "$2"
  user:
    client-certificate-data: $(base64 -w0 "$cert.crt")
    client-key-data: $(base64 -w0 "$cert.key")
YAML
    chmod 600 "$1"
}

# make_bootstrap_kubeconfig FILE TOKEN: what kubeadm leaves for a node that has no certificate yet
make_bootstrap_kubeconfig() {
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: bootstrap
clusters:
- name: $NAME
  cluster:
    server: https://$API_IP:6443
    certificate-authority-data: $(base64 -w0 "$(run_dir)/pki/ca.crt")
contexts:
- name: bootstrap
  context: {cluster: $NAME, user: bootstrap}
users:
- name: bootstrap
  user: {token: $2}
YAML
    chmod 600 "$1"
}

make_pki() {
    local pki
    pki=$(run_dir)/pki
    mkdir "$pki"
    chmod 700 "$pki"
    (cd "$pki" && write_pki)
}

write_pki() {
    local sans
    make_ca ca kubernetes
    make_ca front-proxy-ca front-proxy-ca
    sans=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    make_cert ca apiserver /CN=kube-apiserver "$sans,DNS:localhost,IP:127.0.0.1,IP:$SERVICE_API_IP,IP:$API_IP"
    make_cert ca apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    make_cert front-proxy-ca front-proxy-client /CN=front-proxy-client
    make_cert ca admin /O=system:masters/CN=kubernetes-admin
    make_cert ca controller-manager /CN=system:kube-controller-manager
    make_cert ca scheduler /CN=system:kube-scheduler
    openssl ecparam -genkey -name prime256v1 -noout -out sa.key
    openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
    make_kubeconfig ../kubeconfig kubernetes-admin admin
    make_kubeconfig controller-manager.conf system:kube-controller-manager controller-manager
    make_kubeconfig scheduler.conf system:kube-scheduler scheduler
}

# make_node_credentials NODE FILE
make_node_credentials() {
    local pki
    pki=$(run_dir)/pki
    make_cert "$pki/ca" "$pki/node-$1" "/O=system:nodes/CN=system:node:$1"
    make_kubeconfig "$2" "system:node:$1" "$pki/node-$1"
}
