"""An S3-compatible server in this process (moto), reached by boto3 and s3fs with credentials of the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "bucket"


@contextmanager
def object_store(patch) -> Iterator[str]:
    """Start a server with an empty bucket; yields `s3://bucket`. `patch` is a MonkeyPatch, for the environment."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    fsspec_s3 = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    fsspec_s3.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        fsspec_s3.S3FileSystem.clear_instance_cache()
        server.stop()
