"""Tables of models without torch: exported files, a server, many problems."""

from benchmarks.tables.base import Table, read, table


@table("onnx")
def onnx() -> Table:
    """One problem a call, checks included, in microseconds."""
    names = {"graph alone": "the graph alone", "predict": "`predict`", "solve to 1e-6": "`solve` to 1e-6"}
    found = read("onnx")
    rows = [
        [words, *(f"{found[name][key]:.0f} us" for key in ("median", "p99", "lowest"))]
        for name, words in names.items()
    ]
    return Table(["", "median", "p99", "lowest"], rows)


@table("serve")
def serve() -> Table:
    """Clients for a while, some requests malformed."""
    rows = [
        [
            str(run["clients"]),
            f"{run['seconds']} s",
            str(run["together"]),
            str(run["answered"]),
            str(run["wrong"]),
            str(sum(run["refused"].values())),
            "yes" if run["crashed"] else "no",
            f"{run['ms']['median']:.0f} ms",
            f"{run['ms']['p99']:.0f} ms",
            f"{run['server_cpu_ms_per_request']:.1f} ms",
        ]
        for run in read("serve")["runs"]
    ]
    head = ["clients", "for", "predicted together, at most", "answers", "wrong", "refused", "crashed"]
    return Table([*head, "median", "p99", "processor, a request"], rows, left=0)


@table("random-problems")
def random_problems() -> Table:
    """Random problems of every kind, solved and checked from the definition."""
    found = read("fuzz")
    facts = {
        "problems": found["problems"],
        "instances": found["instances"],
        "false claims": found["false"],
        "not finite": found["not finite"],
        "not converged": found["unconverged"],
        "slow": found["slow"],
    }
    return Table(list(facts), [[str(value) for value in facts.values()]], left=0)


@table("core")
def core() -> Table:
    """One core against the version before it: milliseconds, and the median ratio."""
    rows = [
        [name, f"{row['before']:.3g} ms", f"{row['now']:.3g} ms", f"{row['ratio']:.2f}x"]
        for name, row in read("core")["rows"].items()
    ]
    return Table(["solve", "before", "now", "now / before"], rows)


@table("large-clouds")
def large_clouds() -> Table:
    """Clouds of 10000 points each, beside POT."""
    found = read("core")["large clouds"]
    rows = [
        [name, f"{found[name]['seconds']:.1f} s", f"{found[name]['MiB']:.0f} MiB", str(found[name]["steps"])]
        for name in ("metaot", "POT")
    ]
    return Table(["", "time", "memory", "steps"], rows)
