"""Several lists of image specs from standard input as one: of equal references the last counts, "drop" leaves one out."""

import json
import sys

text, specs, decoder = sys.stdin.read().strip(), {}, json.JSONDecoder()
while text:
    images, end = decoder.raw_decode(text)
    specs.update({image["ref"]: image for image in images})
    text = text[end:].strip()
json.dump([image for image in specs.values() if not image.get("drop")], sys.stdout)
