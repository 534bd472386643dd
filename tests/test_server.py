"""The server of docs/deploy.md, in a process of its own: under load nothing is lost, and its memory does not grow."""

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
import skimage.data
from PIL import Image

import slimcodec

ROOT = Path(__file__).parents[1]
SIZES = (64, 48), (200, 120), (321, 240)
MIB = 1 << 20
RISE_MIB = 24  # of what the process holds once it is warm
BOMB = 5000, 5001  # pixels of a picture that is too large


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its address and its process."""
    folder = tmp_path_factory.mktemp("server")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/deploy.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "server.py").write_text(block, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port), "--log-level", "warning"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_for(port, process):
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def exchanges():
    """What is sent, and what must come back: one photo of each size there, and back."""
    found = []
    for size in SIZES:
        photo, slim, decoded = BytesIO(), BytesIO(), BytesIO()
        Image.fromarray(skimage.data.astronaut()).resize(size).save(photo, "PNG")
        slimcodec.compress_file(BytesIO(photo.getvalue()), slim, quality=3)
        slimcodec.decompress_file(BytesIO(slim.getvalue()), decoded)
        found.append(("/compress?quality=3", photo.getvalue(), slim.getvalue()))
        found.append(("/decompress", slim.getvalue(), decoded.getvalue()))
    return found


def load(address, exchanges, *, requests, clients):
    """So many requests, all of whose answers must be right."""
    with httpx.Client(base_url=address, timeout=120, limits=httpx.Limits(max_connections=clients)) as client:

        def right(number):
            path, sent, expected = exchanges[number % len(exchanges)]
            answer = client.post(path, content=sent)
            return answer.status_code == 200 and answer.content == expected

        with ThreadPoolExecutor(clients) as pool:
            assert list(pool.map(right, range(requests))) == [True] * requests


def check_memory(server, exchanges, *, requests, clients):
    address, process = server
    load(address, exchanges, requests=requests, clients=clients)
    warm = process.memory_info().rss
    began = time.monotonic()
    load(address, exchanges, requests=requests, clients=clients)
    seconds, after = time.monotonic() - began, process.memory_info().rss
    print(f"\n{requests} requests of {clients} clients in {seconds:.1f} s: {warm // MIB} MiB, then {after // MIB} MiB")
    assert after - warm < RISE_MIB * MIB


def test_every_answer_is_right_and_memory_stays(server, exchanges):
    check_memory(server, exchanges, requests=12, clients=4)


@pytest.mark.slow
def test_200_requests_of_16_clients(server, exchanges):
    check_memory(server, exchanges, requests=200, clients=16)


@pytest.mark.parametrize(
    "path, sent, told",
    [
        ("/compress?quality=99", None, "quality 99.0: must be a number from 1 to 8"),
        ("/compress?quality=much", b"", "Input should be a valid number"),
        ("/compress", b"hello", "is not a picture"),
        ("/compress", bytes((32 << 20) + 1), "more than 33,554,432 bytes"),
        ("/compress", BOMB, "more than the limit of 24,000,000"),
        ("/decompress", b"hello", "not a .slim file"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(server, exchanges, path, sent, told):
    if sent is None:
        sent = exchanges[0][1]
    elif sent is BOMB:
        file = BytesIO()
        Image.new("1", BOMB).save(file, "PNG")
        sent = file.getvalue()
    answer = httpx.post(server[0] + path, content=sent, timeout=60)
    assert answer.status_code == 400 and told in answer.text
    assert answer.text.count("\n") == 1 and answer.text.endswith("\n")
