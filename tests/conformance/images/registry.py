"""The images of a docker archive as a registry has them.

usage: registry.py serve ARCHIVE PORT    answers pulls on 127.0.0.1, for the specs that pull always
       registry.py layout ARCHIVE DIR    writes the folders that agnhost's fake-registry-server serves
"""

import hashlib
import http.server
import json
import os
import sys
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Images:
    """manifests: (name, tag or digest) -> bytes; blobs: digest -> member of the archive."""

    def __init__(self, path):
        self.archive = path
        self.manifests, self.tags, self.blobs = {}, {}, {}
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive}
            for image in json.load(archive.extractfile(members["manifest.json"])):
                self.add(image, members)

    def add(self, image, members):
        # The archive names a config and a layer by its digest.
        config = self.descriptor(CONFIG, members[image["Config"]])
        layers = [self.descriptor(LAYER, members[name]) for name in image["Layers"]]
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).encode()
        for ref in image["RepoTags"]:
            name, tag = ref.split("/", 1)[1].rsplit(":", 1)
            self.manifests[name, digest_of(manifest)] = manifest
            self.tags[name, tag] = digest_of(manifest)

    def descriptor(self, media_type, member):
        digest = "sha256:" + member.name.split(".")[0]
        self.blobs[digest] = (member.offset_data, member.size)
        return {"mediaType": media_type, "digest": digest, "size": member.size}

    def read(self, digest, write):
        offset, left = self.blobs[digest]
        with open(self.archive, "rb") as file:
            file.seek(offset)
            while left:
                chunk = file.read(min(left, 1 << 20))
                left -= len(chunk)
                write(chunk)


def serve(images, port):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = self.path.split("?")[0]
            parts = path.removeprefix("/v2/").rsplit("/", 2)
            if path in ("/v2", "/v2/"):
                self.head(200, "application/json", 0, None)
            elif len(parts) == 3 and parts[1] == "manifests" and self.manifest(parts) is not None:
                digest, manifest = self.manifest(parts)
                self.head(200, MANIFEST, len(manifest), digest)
                if body:
                    self.wfile.write(manifest)
            elif len(parts) == 3 and parts[1] == "blobs" and parts[2] in images.blobs:
                self.head(200, "application/octet-stream", images.blobs[parts[2]][1], parts[2])
                if body:
                    images.read(parts[2], self.wfile.write)
            else:
                self.head(404, "application/json", 0, None)

        def manifest(self, parts):
            digest = images.tags.get((parts[0], parts[2]), parts[2])
            manifest = images.manifests.get((parts[0], digest))
            return manifest and (digest, manifest)

        def head(self, status, media_type, length, digest):
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(length))
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def layout(images, folder):
    def store(kind, digest, write):
        algorithm, hexadecimal = digest.split(":")
        path = os.path.join(folder, kind[0], kind[1], algorithm, hexadecimal[:2], hexadecimal)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "data"), "wb") as file:
            write(file)

    for (name, digest), manifest in images.manifests.items():
        store((name, "manifests"), digest, lambda file, data=manifest: file.write(data))
        document = json.loads(manifest)
        for blob in [document["config"], *document["layers"]]:
            store((name, "blobs"), blob["digest"], lambda file, digest=blob["digest"]: images.read(digest, file.write))
    for (name, tag), digest in images.tags.items():
        with open(os.path.join(folder, name, "manifests", tag), "w") as file:
            file.write(digest)


if sys.argv[1] == "serve":
    serve(Images(sys.argv[2]), int(sys.argv[3]))
else:
    layout(Images(sys.argv[2]), sys.argv[3])
