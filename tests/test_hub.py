"""Models on the Hugging Face Hub, by a small server that stands in for its API."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from slimcodec.codec import models, zoo

TOKEN, COMMIT = "hf_of_a_test", "c0ffee" + 34 * "0"
USE = """
import json, sys, urllib.request
from huggingface_hub import constants
import slimcodec
from slimcodec.cli import main

directory = sys.argv[1]
said = {"address": slimcodec.push_to_hub(directory, "owner/name")}
for name in ("hf://owner/name", said["address"]):
    codec = slimcodec.load(name)
    said.setdefault("hashes", []).append(codec.model_hash.hex())
said["verb"] = main(["compress", sys.argv[2], "-o", sys.argv[3], "--quiet", "--model", "hf://owner/name"])

def refused(name):
    try:
        slimcodec.load(name)
    except slimcodec.InvalidModel as error:
        return str(error)

wrong = "owner/none", "owner/name@v9", "owner/name/of/what", "owner/text"
said["refused"] = [refused(f"hf://{name}") for name in wrong]
urllib.request.urlopen(constants.ENDPOINT + "/stop").read()
said["offline"] = slimcodec.load("hf://owner/name").model_hash.hex()
said["unreachable"] = refused("hf://owner/other")
print(json.dumps(said))
"""


class Hub(BaseHTTPRequestHandler):
    """What `huggingface_hub` asks for a repository whose files are all in its commits."""

    def do_GET(self, head=False):
        if self.path == "/stop":
            self.server.shutdown()
            self.server.server_close()
            return self.answer(200, b"")
        owner, name, _, revision, *path = self.path.strip("/").split("/")
        stored = self.server.files.get(f"{owner}/{name}")
        if stored is None:
            return self.answer(401, b"", **{"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
        data = stored.get("/".join(path))
        if data is None:
            return self.answer(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = hashlib.sha256(data).hexdigest()
        self.answer(200, data, **{"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('organization', 'owner')}/{asked['name'].rpartition('/')[2]}"
            self.server.files.setdefault(repository, {})
            return self.json({"url": f"{self.server.address}/{repository}"})
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        _, _, owner, name, verb, _ = self.path.strip("/").split("/")
        if verb == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.json({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[f"{owner}/{name}"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.json(
            {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"}
        )

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def answer(self, status, data, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files = {"owner/text": {"README.md": b"no model"}}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_goes_to_the_hub_and_comes_back(hub, model_directory, pictures, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.fromarray(pictures["17x31"]).save(photo)
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache")}
    settings |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", USE, model_directory, photo, tmp_path / "photo.slim"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["address"] == f"hf://owner/name@{COMMIT}" and said["verb"] == 0
    none, revision, wrong, text = said["refused"]
    assert none == "hf://owner/none: is not on the Hub, or is private; `hf auth login` says who you are"
    assert revision == "hf://owner/name@v9: there is no such revision of this model on the Hub"
    assert wrong == "hf://owner/name/of/what: is no address on the Hub, such as hf://owner/name@revision"
    assert text == "hf://owner/text: is no slimcodec model, whose files are not there"
    expected = zoo.short(zoo.read_description(model_directory)["weights_sha256"])
    assert said["hashes"] == [expected, expected] and said["offline"] == expected
    assert said["unreachable"].startswith("hf://owner/other: the Hub cannot be reached, and the model is not in")
    pushed = hub.files["owner/name"]
    assert set(pushed) == {models.DESCRIPTION, models.WEIGHTS, models.CARD}
    assert pushed[models.WEIGHTS] == (model_directory / models.WEIGHTS).read_bytes()
    _, matter, card = pushed[models.CARD].decode().split("---\n", 2)
    data = yaml.safe_load(matter)
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "bsd-3-clause",
        "slimcodec",
        "image-to-image",
    )
    assert {"image-compression", "student"} <= set(data["tags"])
    assert card.startswith("\n# name\n") and 'slimcodec.load("hf://owner/name")' in card


def test_without_the_library_one_line_says_what_to_install():
    script = """
import sys
sys.modules["huggingface_hub"] = None
from slimcodec.cli import main
print(main(["info", "hf://owner/name"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2\n"
    assert (
        done.stderr == "slimcodec: hf:// needs huggingface-hub, which is not installed: pip install 'slimcodec[hub]'\n"
    )
