"""Merges one YAML mapping over another and prints the result: mappings are merged by key, anything else is replaced,
null removes. usage: merge_yaml.py BASE OVERRIDES"""

import sys

import yaml


def merge(base, over):
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


base, over = (yaml.safe_load(open(path)) or {} for path in sys.argv[1:3])
if not isinstance(over, dict):
    sys.exit(f"{sys.argv[2]}: want a mapping, found {type(over).__name__}")
yaml.safe_dump(merge(base, over), sys.stdout, sort_keys=False)
