"""What the fixture `ialign` gives where the command line refuses."""


def refused(result, *parts):
    """One sentence on stderr that holds all parts, nothing on stdout, exit code 2."""
    code, out, err = result
    assert (code, out, len(err.splitlines())) == (2, "", 1), result
    assert err.startswith("ialign: ")
    for part in parts:
        assert part in err
