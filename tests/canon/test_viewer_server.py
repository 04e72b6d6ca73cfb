"""What the viewer refuses, who may ask it, and what it answers; without a browser."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from truth import small_scene, true_fit
from viewing import FIT, saved_project, until

import canon
from canon.cli import BAD_INPUT, main
from canon.fits import Fit
from canon.project import Project
from canon.viewer import server

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra 'viewer' is not installed")

URL = "http://127.0.0.1:7860"


def build(folder: Path, **options: Any) -> Any:
    """The application; gradio is slow to import, so not before it is needed."""
    from canon.viewer.app import build as made

    return made(folder, **options)


def asking(app: Any, url: str = URL) -> Any:
    """A client of an application."""
    from fastapi.testclient import TestClient

    return TestClient(app, base_url=url)


@pytest.fixture(scope="module")
def truth() -> Fit:
    return true_fit(small_scene("pan"))


@pytest.fixture
def project(truth: Fit, tmp_path: Path) -> Project:
    made = saved_project(tmp_path / "project", truth)
    canon.edit(truth, "grade", exposure=-1.0).save(made.edit_folder("darker"))
    return made


@pytest.fixture
def client(project: Project) -> Iterator[Any]:
    app = build(project.folder)
    with asking(app) as made:
        yield made
    app.state.close()


def sentence(answer: Any) -> str:
    """The sentence of an answer that refuses."""
    assert 400 <= answer.status_code < 500
    said = answer.json()["error"]
    assert re.fullmatch(r"[^\n]+[.;!?]", said) and "Traceback" not in said
    return str(said)


# --- starting ---


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which ``canon view`` does not start."""
    assert main(["view", *arguments, "--no-browser"]) == BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert said.startswith("canon: ") and "\n" not in said
    return said


def test_what_cannot_be_shown_is_refused(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(project.folder)
    assert "is not a canon project" in refused([str(tmp_path)], capsys)
    assert "does not exist" in refused([str(tmp_path / "nowhere")], capsys)
    assert "--password-file" in refused([folder, "--host", "0.0.0.0"], capsys)
    assert "too short" in refused([folder, "--password", "short"], capsys)
    assert "Cannot read the password file" in refused([folder, "--password-file", str(tmp_path / "no")], capsys)
    (tmp_path / "empty").write_text("\n")
    assert "empty line" in refused([folder, "--password-file", str(tmp_path / "empty")], capsys)
    assert "cannot be served on" in refused([folder, "--host", "192.0.2.1", "--password", "long enough"], capsys)
    assert "cannot be used" in refused([folder, "--port", "70000"], capsys)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "canon-video[viewer]" in refused([folder], capsys)


def test_a_port_in_use_names_a_free_one_and_without_a_port_one_is_found(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused([str(project.folder), "--port", str(port)], capsys)
        free = re.search(r"is in use; .* --port (\d+)", said)
        assert free is not None and int(free[1]) > port
        server.bound("127.0.0.1", int(free[1])).close()
        monkeypatch.setattr(server, "DEFAULT_PORT", port)
        with server.bound("127.0.0.1", None) as found:
            assert found.getsockname()[1] > port


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom canon.cli import main\n"
        "try: main(['view', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'gradio', 'fastapi', 'cv2') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--password-file" in said and said.strip().endswith("[]")


# --- who may ask, and for what ---


def test_other_sites_are_refused(client: Any) -> None:
    assert client.get("/work/project").status_code == 200
    assert client.get("/work/project", headers={"host": "localhost:7860"}).status_code == 200
    for address in ("/work/project", "/", "/canon/fits", "/gradio_api/info"):
        rebound = client.get(address, headers={"host": "evil.example"})
        assert rebound.status_code == 403 and "another site" in sentence(rebound)
    foreign = {"origin": "http://evil.example"}
    assert client.delete("/work/thing/edits/darker", headers=foreign).status_code == 403
    assert client.post("/gradio_api/queue/join", json={}, headers=foreign).status_code == 403
    assert client.get("/work/project").json()["edits"][0]["name"] == "darker"
    assert client.get("/work/project", headers={"origin": URL}).status_code == 200


def test_a_password_is_asked_for_everywhere(project: Project) -> None:
    app = build(project.folder, password="correct horse", host="0.0.0.0")
    try:
        with asking(app, "http://studio.example:7860") as client:
            for address in ("/", "/work/project", "/canon/assets/canon.js", "/config", "/gradio_api/file=/etc/passwd"):
                answer = client.get(address)
                assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
            for wrong in ("battery staple", "", "correct horse "):
                header = "Basic " + base64.b64encode(f"me:{wrong}".encode()).decode()
                assert client.get("/work/project", headers={"authorization": header}).status_code == 401
            for broken in ("Basic !!!", "Bearer x", "Basic"):
                assert client.get("/work/project", headers={"authorization": broken}).status_code == 401
            right = ("anybody", "correct horse")
            assert client.get("/", auth=right).status_code == 200
            assert client.get("/work/project", auth=right).json()["name"] == "project"
            assert client.get("/canon/assets/canon.js", auth=right).status_code == 200
    finally:
        app.state.close()


OUTSIDE = ("..%2f..%2fproject.yaml", "%2e%2e", "..%5c..", "%2fetc%2fpasswd", ".hidden", "a%00b", "..%252fproject.yaml")


ADDRESSES = [
    ("GET", "/work/thumbnail/fits/NAME"),
    ("GET", "/work/thumbnail/renders/NAME"),
    ("GET", "/work/thumbnail/NAME/truth"),
    ("GET", "/work/file/NAME"),
    ("POST", "/work/edits/NAME/rename"),
    ("POST", "/work/renders/NAME/rename"),
    ("DELETE", "/work/thing/fits/NAME"),
    ("DELETE", "/work/thing/renders/NAME"),
    ("DELETE", "/work/jobs/NAME"),
    ("POST", "/work/jobs/NAME/cancel"),
    ("GET", "/work/jobs/NAME/variants/1/0.jpg"),
    ("POST", "/work/jobs/NAME/save"),
    ("GET", "/canon/assets/NAME"),
]


def test_no_name_leads_out_of_the_project(client: Any, project: Project) -> None:
    for method, address in ADDRESSES:
        for name in OUTSIDE:
            body = {"to": "new", "variant": 1, "name": "new"} if method == "POST" else None
            answer = client.request(method, address.replace("NAME", name), json=body)
            assert 400 <= answer.status_code < 500, (method, address, name)
            assert b"canon-project" not in answer.content and b"root:" not in answer.content
    for name in ("../out", "/etc/out", "a/b", "", "..", ".x", "a\0b", "x" * 200):
        sentence(client.post("/work/edits/darker/rename", json={"to": name}))
        sentence(client.post("/work/fits/truth/rename", json={"to": name}))
    assert project.edits == ["darker"] and project.fits == [FIT]


def test_gradio_gives_no_files_but_uploads(client: Any, project: Project, monkeypatch: Any) -> None:
    outside = [
        "/etc/passwd",
        str((project.folder / "project.yaml").resolve()),
        str(Path(__file__)),
        f"{project.folder.resolve()}/.work/uploads/../../project.yaml",
        f"{project.folder.resolve()}/.work/uploads/%2e%2e/%2e%2e/project.yaml",
        "http://127.0.0.1:1/secret",
        "pyproject.toml",
    ]
    for address in (f"/gradio_api/file{sign}{path}" for path in outside for sign in "=/"):
        answer = client.get(address)
        assert answer.status_code in (403, 404) and b"canon-project" not in answer.content
    sent = client.post("/gradio_api/upload", files={"files": ("a.txt", b"mine")})
    assert client.get(f"/gradio_api/file={sent.json()[0]}").content == b"mine"
    assert Path(sent.json()[0]).is_relative_to((project.folder / ".work" / "uploads").resolve())


def test_a_huge_upload_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canon.viewer.app.MOST_UPLOADED", 10_000)
    app = build(project.folder)
    try:
        with asking(app) as client:
            assert client.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 20_000)}).status_code == 413
    finally:
        app.state.close()


# --- what the project page does ---


def test_the_project_page_knows_what_is_there(client: Any, project: Project, truth: Fit) -> None:
    found = client.get("/work/project").json()
    assert found["clip"]["frames"] == len(truth) and found["clip"]["width"] == truth.size[1]
    (fit,), (edit,) = found["fits"], found["edits"]
    assert (fit["name"], fit["layers"], fit["spatial"]) == (FIT, truth.layers, False)
    assert (edit["editors"], edit["fit"], edit["settings"]["exposure"]) == (["grade"], FIT, "-1")
    (project.folder / "edits" / "torn").mkdir()
    (project.folder / "edits" / "torn" / "edit.yaml").write_text("steps: [")
    torn = client.get("/work/project").json()["edits"][1]
    assert "damaged" in torn["sentence"] and torn["name"] == "torn"


def test_thumbnails_show_the_thing_and_are_made_once(client: Any, project: Project, truth: Fit) -> None:
    for address in ("/work/thumbnail/fits/truth", "/work/thumbnail/edits/darker", "/work/clip.jpg"):
        image = cv2.imdecode(np.frombuffer(client.get(address).content, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape[0] == 264 and image.std() > 5
    kept = project.folder / ".work" / "thumbnails" / "edits-darker.jpg"
    inode = kept.stat().st_ino
    client.get("/work/thumbnail/edits/darker")
    assert kept.stat().st_ino == inode
    before = kept.read_bytes()
    canon.edit(truth, "grade", exposure=1.0).save(project.edit_folder("darker"))
    client.get("/work/thumbnail/edits/darker")
    assert kept.read_bytes() != before


def test_renaming_and_deleting(client: Any, project: Project, truth: Fit) -> None:
    canon.edit(truth, "grade", hue=90.0).save(project.edit_folder("other"))
    assert "already" in sentence(client.post("/work/edits/darker/rename", json={"to": "other"}))
    assert client.post("/work/edits/darker/rename", json={"to": "night"}).status_code == 200
    assert project.edits == ["night", "other"]
    assert "deleted or renamed" in sentence(client.delete("/work/thing/edits/darker"))
    assert client.delete("/work/thing/edits/other").status_code == 200
    (project.folder / "renders").mkdir()
    (project.folder / "renders" / "a.mp4").write_bytes(b"x")
    assert client.post("/work/renders/a.mp4/rename", json={"to": "b"}).status_code == 200
    assert (project.folder / "renders" / "b.mp4").exists() and project.edits == ["night"]
    assert client.post("/work/fits/truth/rename", json={"to": "mine"}).status_code == 200
    assert client.get("/work/project").json()["edits"][0]["fit"] == "mine"
    with project.lock():
        assert "fitting" in sentence(client.delete("/work/thing/fits/mine"))


def ended(client: Any, id: str) -> dict[str, Any]:
    """A job once it has ended."""

    def found() -> dict[str, Any] | None:
        job: dict[str, Any] = next(job for job in client.get("/work/jobs").json() if job["id"] == id)
        return job if job["state"] not in ("queued", "running") else None

    return dict(until(found))


def test_measuring_shows_the_figures_until_the_edit_is_another(client: Any, project: Project, truth: Fit) -> None:
    job = client.post("/work/measure", json={"kind": "edits", "name": "darker"}).json()
    assert ended(client, job["id"])["state"] == "done"
    figures = client.get("/work/project").json()["edits"][0]["figures"]
    assert figures["changed_outside"] == 0 and figures["psnr"] > 30
    time.sleep(0.02)
    canon.edit(truth, "grade", exposure=1.0).save(project.edit_folder("darker"))
    assert client.get("/work/project").json()["edits"][0]["figures"] == {}
    assert "Fits and edits" in sentence(client.post("/work/measure", json={"kind": "renders", "name": "darker"}))
    sentence(client.post("/work/measure", json={"kind": "fits", "name": "gone"}))
    sentence(client.post("/work/measure", json={"kind": "fits"}))


def test_variants_are_chosen_from_and_the_rest_is_thrown_away(
    client: Any, project: Project, truth: Fit, tmp_path: Path
) -> None:
    place = client.app.state.place
    arguments = {"project": str(project.folder), "fit": FIT, "editor": "grade", "options": {"exposure": 1.0}}
    job = place.jobs.submit("edit", "grade", {**arguments, "count": 2})
    assert ended(client, job.id)["variants"] == 2
    address = f"/work/jobs/{job.id}"
    for variant, frames in ((0, truth.clip.frames), (1, canon.render(truth, canon.edit(truth, "grade", exposure=1.0)))):
        data = client.get(f"{address}/variants/{variant}/3.jpg").content
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(image.astype(int) - frames[3]).mean() < 4
    assert "no frame 99" in sentence(client.get(f"{address}/variants/1/99.jpg"))
    assert "no variant 3" in sentence(client.get(f"{address}/variants/3/0.jpg"))
    taken = client.post(f"{address}/save", json={"variant": 2, "name": "darker"})
    assert taken.status_code == 409 and "already" in sentence(taken)
    sentence(client.post(f"{address}/save", json={"variant": 3, "name": "new"}))
    assert client.post(f"{address}/save", json={"variant": 2, "name": "darker", "replace": True}).status_code == 200
    assert not place.jobs.folder_of(job).exists()
    assert project.edit("darker").steps[0].provenance.options["exposure"] == 1.0
    assert "not there any more" in sentence(client.post(f"{address}/save", json={"variant": 1, "name": "new"}))
    versions = client.get("/canon/edits/darker/history").json()["versions"]
    assert len(versions) == 2  # as it was before the viewer, and as it is
    client.post("/canon/edits/darker/restore", json={"version": versions[-1]["version"]})
    assert project.edit("darker").steps[0].provenance.options["exposure"] == -1.0


def test_a_flat_fit_has_no_view_in_three_dimensions(client: Any, project: Project) -> None:
    assert "third dimension" in sentence(client.post("/work/spatial", json={"fit": FIT}))
    sentence(client.post("/work/spatial", json={"fit": "../.."}))
    app = build(project.folder, password="correct horse", host="0.0.0.0")
    try:
        with asking(app) as exposed:
            asked = exposed.post("/work/spatial", json={"fit": FIT}, auth=("me", "correct horse"))
            assert "no password" in sentence(asked)
    finally:
        app.state.close()


def test_what_a_page_that_stayed_open_chose_can_be_sent(client: Any) -> None:
    """gradio refuses what is not among the choices that it knows from the beginning."""
    parts = client.get("/config").json()["components"]
    there = {part["props"].get("elem_id"): part["props"] for part in parts if part["type"] == "dropdown"}
    assert (there["fit"]["choices"], there["stack"]["choices"]) == ([[FIT, FIT]], [["darker", "darker"]])
    assert all(there[name]["allow_custom_value"] for name in ("fit", "stack"))


def test_a_render_that_cannot_be_is_a_failed_job_with_a_sentence(client: Any, project: Project) -> None:
    place = client.app.state.place
    for wrong in ({"edits": ["gone"]}, {"edits": []}, {"edits": ["darker"], "format": "exe"}):
        job = place.jobs.submit("render", "render", {"project": str(project.folder), **wrong})
        found = ended(client, job.id)
        assert found["state"] == "failed" and re.fullmatch(r"[^\n]+\.", found["sentence"])
    assert client.get("/work/file/gone.mp4").status_code == 400
