"""Assembles image archives: each layer is a folder (packed reproducibly, root-owned) or a tar file, layers that images
share are stored once. usage: assemble.py OUT.tar < SPEC, a JSON list of {ref, layers: [path], config: {…}}"""

import hashlib
import io
import json
import os
import sys
import tarfile


def pack(folder):
    """The folder as tar bytes: sorted, without times and owners, so that equal content has an equal digest."""

    def plain(info):
        info.mtime = 0
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for root, dirs, files in os.walk(folder):
            dirs.sort()
            for name in sorted(dirs + files):
                path = os.path.join(root, name)
                tar.add(path, os.path.relpath(path, folder), recursive=False, filter=plain)
    return buffer.getvalue()


def read_layer(path):
    if os.path.isdir(path):
        return pack(path)
    with open(path, "rb") as file:
        return file.read()


def main(out, spec):
    stored, layers_by_path, manifest = set(), {}, []
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:

        def store(name, data):
            if name not in stored:
                stored.add(name)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

        for image in spec:
            digests = []
            for path in image["layers"]:
                if path not in layers_by_path:
                    data = read_layer(path)
                    layers_by_path[path] = hashlib.sha256(data).hexdigest()
                    store(layers_by_path[path] + ".tar", data)
                digests.append(layers_by_path[path])
            # The reference as a label: one image that two references name would show the wrong one of them in a status.
            config = {"Labels": {"ref": image["ref"]}, **image["config"]}
            config.setdefault("Env", ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            document = json.dumps(
                {
                    "created": "1970-01-01T00:00:00Z",
                    "architecture": "amd64",
                    "os": "linux",
                    "config": config,
                    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest for digest in digests]},
                },
                sort_keys=True,
            ).encode()
            name = hashlib.sha256(document).hexdigest() + ".json"
            store(name, document)
            manifest.append({"Config": name, "RepoTags": [image["ref"]], "Layers": [d + ".tar" for d in digests]})
        store("manifest.json", json.dumps(manifest).encode())


main(sys.argv[1], json.load(sys.stdin))
