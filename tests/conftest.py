"""Fixtures shared by the suite: where the real slides lie, and an object store."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and images; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSI_PIPELINE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip("real data not found; set WSI_PIPELINE_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback, one for all: file systems stay with the first that they reach."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret key that, with the server's address, stands in the environment of this test."""
    secret = "a-secret-of-this-test"
    told = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": secret}
    for name, value in (told | {"DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return secret
