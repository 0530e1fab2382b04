"""Finds credentials and its identity as any boto3 program in a pod does, and prints one line of JSON.

    boto_probe.py            asks once; exit code 1 if that fails
    boto_probe.py --serve    asks once for each line of standard input

A line `ask` uses the existing session and the credentials that it holds, as a long-running program does. `fresh` creates a new
session first. The fields are those of the Go program in `go/`.

boto3 takes its region from AWS_DEFAULT_REGION or a profile only: not from AWS_REGION, and never from the metadata service. (In the
`auto` defaults mode it reads the zone there, and still has no region.) `region` is null then, and STS is called in us-west-2, which
`sts_region` shows.
"""

import json
import signal
import sys
import time

import boto3
import botocore.exceptions

FALLBACK_REGION = "us-west-2"
# The time limit for one answer, longer than all of boto3's retries. A probe must not outlive its test.
DEADLINE_SECONDS = 60


class Late(Exception):
    """One answer took longer than DEADLINE_SECONDS."""


def on_alarm(_signal, _frame):
    raise Late(f"no answer within {DEADLINE_SECONDS} s")


def ask(session):
    """Returns what `session` finds. After a failure, the answer contains what was found before it."""
    found = {
        "sdk": f"boto3/{boto3.__version__}",
        "region": session.region_name,
        "sts_region": None,
        "access_key_id": "",
        "source": "",
        "expires": "",
        "arn": "",
        "error": "",
        "retrieve_ms": 0,
    }
    signal.alarm(DEADLINE_SECONDS)
    try:
        fill(found, session)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, Late) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return found


def fill(found, session):
    start = time.monotonic()
    credentials = session.get_credentials()
    # The credentials that a request would be signed with. This refreshes them if they are about to expire.
    frozen = credentials.get_frozen_credentials() if credentials else None
    found["retrieve_ms"] = int((time.monotonic() - start) * 1000)
    if frozen is None:
        raise botocore.exceptions.NoCredentialsError
    found["access_key_id"] = frozen.access_key
    found["source"] = credentials.method
    # The expiration has no public name; long-lived credentials have none.
    expires = getattr(credentials, "_expiry_time", None)
    if expires is not None:
        found["expires"] = expires.strftime("%Y-%m-%dT%H:%M:%SZ")

    # Creating a client without a region succeeds; the call fails.
    sts = session.client("sts")
    try:
        identity = sts.get_caller_identity()
    except botocore.exceptions.NoRegionError:
        sts = session.client("sts", region_name=FALLBACK_REGION)
        identity = sts.get_caller_identity()
    found["sts_region"] = sts.meta.region_name
    found["arn"] = identity["Arn"]


def main(arguments):
    signal.signal(signal.SIGALRM, on_alarm)
    if arguments not in ([], ["--serve"]):
        print(__doc__, file=sys.stderr)
        return 64
    session = boto3.Session()
    if not arguments:
        found = ask(session)
        print(json.dumps(found), flush=True)
        return 1 if found["error"] else 0
    for line in sys.stdin:
        word = line.strip()
        if word == "fresh":
            session = boto3.Session()
        elif word != "ask":
            print(f"say ask or fresh, not {word!r}", file=sys.stderr)
            return 64
        print(json.dumps(ask(session)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
