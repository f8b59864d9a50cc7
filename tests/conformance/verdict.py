"""What the suite said, spec by spec, and how two verdicts differ.

usage: verdict.py write whole|part REPORT OUT                        the verdict as a text file, a line per spec; of a
                                                                     part only those specs are replaced in it
       verdict.py show REPORT                                        numbers by area
       verdict.py sample UPSTREAM N FLAKY                            a focus on every Nth spec that upstream passes
       verdict.py compare PASS whole|part REPORT UPSTREAM LIST FLAKY exit 1 when they differ not as LIST says

A line of a verdict is `pass|fail|skip AREA | REST`: the area is the suite's outermost text, and without the ` |` it is
the spec's whole name. Lines of LIST and FLAKY are `PASS: NAME => WHY`.
"""

import collections
import hashlib
import json
import os
import re
import sys

PASSED, FAILED, SKIPPED = "pass", "fail", "skip"
SUITE = "E2eNode Suite"


def read_report(path):
    """name -> result, of the specs that were selected; and name -> why, of those that failed."""
    with open(path) as file:
        suites = json.load(file) or []  # nothing: the suite was ended
    results, reasons = {}, {}
    for spec in (spec for suite in suites for spec in suite["SpecReports"] or []):
        texts = spec["ContainerHierarchyTexts"] or []
        failure = spec.get("Failure") or {}
        if spec["LeafNodeType"] != "It":
            if spec["State"] in ("failed", "panicked", "timedout", "aborted"):
                reasons[spec["LeafNodeType"]] = failure.get("Message", "")
            continue
        name = " | ".join([texts[0], " ".join([*texts[1:], spec["LeafNodeText"]])]) if texts else spec["LeafNodeText"]
        if spec["State"] == "passed":
            results[name] = PASSED
        elif spec["State"] in ("skipped", "pending"):
            if not failure.get("Message"):
                continue  # not selected
            results[name] = SKIPPED
        else:
            results[name] = FAILED
            reasons[name] = failure.get("Message", "")
    return results, reasons


def read_verdict(path):
    results = {}
    with open(path) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                result, name = line.rstrip("\n").split(" ", 1)
                results[name] = result
    return results


def read_causes(path, only=None):
    """name -> why; a line that cannot be read is an error, for it would excuse nothing."""
    causes = {}
    with open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            found = re.fullmatch(r"(parallel|serial|slow|features|eviction|statistics): (.+) => (.+)\n?", line)
            if not found:
                sys.exit(f"{path}:{number}: want `parallel|serial|slow|features|eviction|statistics: NAME => WHY`")
            if only in (None, found[1]):
                causes[found[2]] = found[3]
    return causes


def area_of(name):
    area = name.split(" | ")[0]
    return re.sub(r"\s*\[[^]]*\]\s*", " ", area).strip()


def table(results, upstream=None):
    """Numbers by area, the biggest first."""
    counts = collections.defaultdict(collections.Counter)
    for name, result in results.items():
        counts[area_of(name)][result] += 1
        if upstream is not None and upstream.get(name) == PASSED:
            counts[area_of(name)]["upstream"] += 1
            counts[area_of(name)]["both"] += result == PASSED
    total = sum(counts.values(), collections.Counter())
    columns = [PASSED, FAILED, SKIPPED] + (["upstream", "both"] if upstream is not None else [])
    print(f"{'area':<50}" + "".join(f"{column:>10}" for column in columns))
    for area, count in sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0])) + [("all", total)]:
        print(f"{area[:49]:<50}" + "".join(f"{count[column]:>10}" for column in columns))


def write(scope, report, out):
    results, reasons = read_report(report)
    broken = {name: why for name, why in reasons.items() if name not in results}
    if broken or not results:
        sys.exit(f"the suite itself failed, no verdict is written: {broken}")
    if scope == "part" and os.path.exists(out):
        results = {**read_verdict(out), **results}
    with open(out, "w") as file:
        file.write("# Written by `KUBELET=upstream tests/conformance/run`; never edited by hand.\n")
        for name in sorted(results):
            file.write(f"{results[name]} {name}\n")


def whole_names(names):
    """A regular expression for these names, anchored, so that one that another begins with selects only itself."""
    return f"^{SUITE} (" + "|".join(re.escape(name.replace(" | ", " ", 1)).replace("\\ ", " ") for name in names) + ")$"


def failing(upstream):
    """What to leave out: specs that upstream's kubelet fails here say nothing, and one of them never ends without cAdvisor."""
    names = [name for name, result in read_verdict(upstream).items() if result not in (PASSED, SKIPPED)]
    if names:
        print(whole_names(names))


def group_of(name):
    """What is run or left out together. The specs of this area look at what the first of their context has run: by
    themselves they fail with every kubelet."""
    return name.split(" should ")[0] if area_of(name) == "Containers Lifecycle" else name


def sample(upstream, every, flaky):
    """A focus."""
    flaky = read_causes(flaky)
    names = [name for name, result in read_verdict(upstream).items() if result == PASSED and name not in flaky]
    number = lambda name: int(hashlib.sha256(group_of(name).encode()).hexdigest(), 16)
    print(whole_names([name for name in names if number(name) % int(every) == 0]))


def compare(which, scope, report, upstream, todo, flaky):
    results, reasons = read_report(report)
    upstream, todo, flaky = read_verdict(upstream), read_causes(todo, which), read_causes(flaky, which)
    table(results, upstream)
    problems = [f"the suite failed in {name}: {why[:400]}" for name, why in reasons.items() if name not in results]
    if not results:
        problems.append("no spec was run")
    judged = upstream if scope == "whole" else {name: upstream[name] for name in results if name in upstream}
    for name in results:
        if name not in upstream:
            problems.append(f"not in upstream's verdict (make it again): {name}")
    for name, wanted in sorted(judged.items()):
        got = results.get(name, "missing")
        if name in flaky:
            print(f"flaky, not judged: {got} {name}: {flaky[name]}")
        elif name in todo:
            if got == wanted:
                problems.append(f"in todo.txt, but as upstream's now: {got} {name}")
            else:
                print(f"todo: {got} {name}: {todo[name]}")
        elif wanted == PASSED and got != PASSED:
            problems.append(f"upstream's passes, ours: {got} {name}\n    {reasons.get(name, '')[:600]}")
        elif SKIPPED in (wanted, got) and wanted != got:
            problems.append(f"skipped by one only (upstream: {wanted}, ours: {got}): {name}")
    for name in todo:
        if name not in upstream:
            problems.append(f"in todo.txt, but no such spec: {name}")
    both = sum(1 for name in judged if judged[name] == PASSED and results.get(name) == PASSED)
    print(f"{which}: {both} of {sum(1 for result in judged.values() if result == PASSED)} that upstream's kubelet passes")
    for problem in problems:
        print(f"PROBLEM {problem}")
    sys.exit(1 if problems else 0)


command, *arguments = sys.argv[1:]
if command == "show":
    shown, why = read_report(arguments[0])
    table(shown)
    for spec, reason in why.items():
        print(f"failed: {spec}\n    {reason[:600]}")
else:
    {"write": write, "sample": sample, "failing": failing, "compare": compare}[command](*arguments)
