"""The viewer's web interface: pictures against the fit, painting by requests, and what it refuses."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the viewer needs the extra [viewer]")
pytest.importorskip("httpx", reason="fastapi's test client needs httpx")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from viewing import saved_project

import canon
from canon.layered_images import LayeredImage, PaintLayer, encoded_layers, read_layers
from canon.project import Project
from canon.storage import encoded_image, to_uint8
from canon.viewer import guarding
from canon.viewer.access import Access
from canon.viewer.api import router
from canon.viewer.draft_layers import Target
from canon.viewer.studio import Studio
from tests.helpers.truth import small_scene, true_fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fit = true_fit(small_scene())
    return saved_project(tmp_path_factory.mktemp("viewer") / "project", fit, "true").folder


@pytest.fixture
def studio(folder: Path, tmp_path: Path) -> Iterator[Studio]:
    shutil.copytree(folder, tmp_path / "project")
    studio = Studio(Project.open(tmp_path / "project"))
    yield studio
    studio.close()


@pytest.fixture
def web(studio: Studio) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router(studio))
    app.add_middleware(Access)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def image(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA if found.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def new_draft(web: TestClient, **given: object) -> str:
    return str(web.post("/canon/drafts", json={"fit": "true", "tab": "one", **given}).json()["id"])


def png(height: int = 20, width: int = 30, colour: tuple[int, ...] = (250, 10, 20, 255)) -> bytes:
    return encoded_image(np.full((height, width, 4), colour, np.uint8))


# --- pictures ---


def test_frames_are_what_the_fit_says(web: TestClient, studio: Studio) -> None:
    fit = studio.fit("true")

    def frame(view: str, **query: str | float) -> np.ndarray:
        answer = web.get("/canon/fits/true/frames/3", params={"view": view, "format": "png", **query})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        return image(answer.content)

    source = np.asarray(fit.clip.frames[3])
    np.testing.assert_array_equal(frame("source"), source)
    np.testing.assert_array_equal(frame("edited"), source)
    np.testing.assert_array_equal(frame("reconstruction"), to_uint8(fit.reconstruct(3)))
    weights = fit.weights(3)
    for name, weight in zip(fit.layers, weights, strict=True):
        np.testing.assert_array_equal(frame("opacity", layer=name), np.repeat(to_uint8(weight)[..., None], 3, axis=2))
    uv = frame("uv", layer="background", mix=1)[weights[1] == 1]
    at = fit.coordinates(3, "background")[0][weights[1] == 1]
    height, width = fit.layer("background").canvas_size
    np.testing.assert_allclose(uv[:, 0], 255 * at[:, 0].clip(0, width - 1) / (width - 1), atol=1)
    np.testing.assert_allclose(uv[:, 1], 255 * at[:, 1].clip(0, height - 1) / (height - 1), atol=1)
    light = frame("lighting", layer="background") / 127.5
    np.testing.assert_allclose(light, fit.lighting(3, "background").clip(0, 2), atol=1 / 100)
    assert frame("error").mean() < 30 and frame("checkerboard").shape == source.shape
    assert frame("source", width=90).shape == (51, 90, 3)


def test_canvases(web: TestClient, studio: Studio) -> None:
    fit = studio.fit("true")
    found = image(web.get("/canon/fits/true/canvases/background").content)
    np.testing.assert_array_equal(found, to_uint8(fit.canonical("background").rgba))
    draft = new_draft(web)
    layer = studio.draft(draft).add_layer(Target("background"))
    studio.draft(draft).patch(layer.id, 40, 30, np.full((20, 30, 4), (9, 8, 7, 255), np.uint8))
    painted = image(web.get("/canon/fits/true/canvases/background", params={"draft": draft}).content)
    assert (painted[30:50, 40:70] == (9, 8, 7, 255)).all()
    painted[30:50, 40:70] = found[30:50, 40:70]
    assert np.abs(painted.astype(int) - found).max() <= 1


def test_what_is_known_is_not_sent_again(web: TestClient, studio: Studio) -> None:
    first = web.get("/canon/fits/true/frames/2")
    tag = {"If-None-Match": first.headers["etag"]}
    assert web.get("/canon/fits/true/frames/2", headers=tag).status_code == 304
    assert web.get("/canon/fits/true/frames/3", headers=tag).status_code == 200
    draft = new_draft(web)
    query = {"draft": draft}
    tag = {"If-None-Match": web.get("/canon/fits/true/frames/2", params=query).headers["etag"]}
    assert web.get("/canon/fits/true/frames/2", params=query, headers=tag).status_code == 304
    studio.draft(draft).add_layer(Target("background"))
    assert web.get("/canon/fits/true/frames/2", params=query, headers=tag).status_code == 200


def test_who_asked_for_something_newer_gets_nothing_old(web: TestClient) -> None:
    late = web.get("/canon/fits/true/frames/2", params={"channel": "tab", "number": 5})
    early = web.get("/canon/fits/true/frames/1", params={"channel": "tab", "number": 4})
    other = web.get("/canon/fits/true/frames/1", params={"channel": "another", "number": 4})
    assert (late.status_code, early.status_code, other.status_code) == (200, 204, 200)
    assert early.headers[guarding.STALE] == "1" and not early.content


def test_probes_agree_with_the_fit(web: TestClient, studio: Studio) -> None:
    fit = studio.fit("true")
    found = web.get("/canon/fits/true/probe", params={"t": 4, "x": 97, "y": 52}).json()["layers"]
    for entry, name in zip(found, fit.layers, strict=True):
        uv, weight = fit.coordinates(4, name)
        assert entry["layer"] == name and entry["weight"] == pytest.approx(weight[52, 97])
        np.testing.assert_allclose([entry["x"], entry["y"]], uv[52, 97], atol=1e-3)
        back = web.get("/canon/fits/true/locate", params={"t": 4, "layer": name, "x": entry["x"], "y": entry["y"]})
        assert back.json()["inside"] and back.json()["weight"] == pytest.approx(weight[52, 97])
        np.testing.assert_allclose([back.json()["x"], back.json()["y"]], [97, 52], atol=0.05)
    away = web.get("/canon/fits/true/locate", params={"t": 4, "layer": "background", "x": -500, "y": 3}).json()
    assert not away["inside"]
    track = web.get("/canon/fits/true/track", params={"t": 4, "x": 97, "y": 52}).json()
    points, visible = fit.track(np.array([[97, 52]], np.float32), 4)
    np.testing.assert_allclose(track["points"], points[:, 0], atol=0.01)
    assert track["visible"] == visible[:, 0].tolist()
    grid = web.get("/canon/fits/true/frames/4/map", params={"layer": "foreground"})
    rows, columns = int(grid.headers["X-Canon-Rows"]), int(grid.headers["X-Canon-Columns"])
    nodes = np.frombuffer(grid.content, "<f4").reshape(rows, columns, 2)
    np.testing.assert_array_equal(nodes, fit.layer("foreground").grid[4])
    assert web.get("/canon/fits/true/probe", params={"t": 4, "x": 500, "y": 52}).status_code == 400


# --- painting ---


def test_painting_saving_and_undoing(web: TestClient, studio: Studio) -> None:
    draft = new_draft(web)
    root = f"/canon/drafts/{draft}"
    layer = web.post(f"{root}/layers?tab=one", json={"target": {"layer": "background"}, "name": "sky"}).json()["layer"]
    url = f"{root}/layers/{layer['id']}"
    answer = web.post(f"{url}/patch", params={"x": 60, "y": 40, "stroke": "s", "tab": "one"}, content=png())
    assert answer.json() == {"revision": 2}
    pixels = image(web.get(f"{url}/pixels", params={"x": 50, "y": 40, "width": 20, "height": 10}).content)
    assert (pixels[:, 10:] == (250, 10, 20, 255)).all() and not pixels[:, :10].any()
    web.patch(f"{url}?tab=one", json={"opacity": 0.5})
    edit = studio.draft(draft).edit()
    wanted = canon.render(studio.fit("true"), edit)[6]
    shown = web.get("/canon/fits/true/frames/6", params={"draft": draft, "format": "png"})
    np.testing.assert_array_equal(image(shown.content), wanted)
    assert not np.array_equal(wanted, studio.fit("true").clip.frames[6])
    assert web.post(f"{root}/save", json={"name": "mine"}).json() == {"name": "mine"}
    np.testing.assert_array_equal(canon.render(studio.fit("true"), studio.edit("mine"))[6], wanted)
    assert web.get("/canon/fits/true").json()["edits"] == ["mine"]
    assert "already" in web.post(f"{root}/save", json={"name": "mine"}).json()["error"]
    assert web.post(f"{root}/save", json={"name": "mine", "replace": True}).status_code == 200
    undone = web.post(f"{root}/undo?tab=one").json()
    assert undone["layers"][0]["opacity"] == 1.0
    undone = web.post(f"{root}/undo?tab=one").json()
    assert undone["places"] == [{"layer": layer["id"], "x": 60, "y": 40, "width": 30, "height": 20}]
    assert not studio.draft(draft).edit().steps
    assert web.post(f"{root}/redo?tab=one").json()["redo"] == "change layer"
    history = web.get("/canon/edits/mine/history").json()["versions"]
    assert [entry["current"] for entry in history] == [True]
    assert web.post("/canon/edits/mine/restore", json={"version": 1}).status_code == 200
    back = web.post("/canon/edits/mine/open", json={"tab": "two"}).json()
    assert back["id"] != draft and back["fit"] == "true"
    assert [(layer["name"], layer["opacity"]) for layer in back["layers"]] == [("sky", 0.5)]
    kept = image(web.get(f"/canon/drafts/{back['id']}/layers/{back['layers'][0]['id']}/pixels").content)
    assert (kept[40:60, 60:90] == (250, 10, 20, 255)).all() and np.count_nonzero(kept[..., 3]) == 600
    assert "no edit called" in web.post("/canon/edits/none/open").json()["error"]


def test_another_tab_cannot_paint_into_a_drawing(web: TestClient, studio: Studio) -> None:
    draft = new_draft(web)
    answer = web.post(f"/canon/drafts/{draft}/layers?tab=two", json={"target": {"layer": "background"}})
    assert answer.status_code == 409 and "another tab" in answer.json()["error"]
    copy = web.post(f"/canon/drafts/{draft}/open", json={"tab": "two"}).json()["id"]
    assert copy != draft
    assert web.post(f"/canon/drafts/{copy}/layers?tab=two", json={"target": {"layer": "background"}}).status_code == 200
    web.post(f"/canon/drafts/{draft}/release", json={"tab": "one"})
    assert web.post(f"/canon/drafts/{draft}/open", json={"tab": "two"}).json()["id"] == draft


@pytest.mark.parametrize("format", ["ora", "psd"])
def test_layers_go_to_another_program_and_back(web: TestClient, studio: Studio, format: str) -> None:
    if format == "psd":
        pytest.importorskip("psd_tools")
    draft = new_draft(web)
    for name, colour in (("sky", (1, 2, 3, 255)), ("héron", (200, 100, 50, 128))):
        layer = studio.draft(draft).add_layer(Target("background"), name, opacity=0.4 if name == "sky" else 1.0)
        studio.draft(draft).patch(layer.id, 40, 30, np.full((20, 30, 4), colour, np.uint8))
    query = {"format": format, "layer": "background"}
    answer = web.get(f"/canon/drafts/{draft}/export", params=query)
    assert f'filename="true-background.{format}"' in answer.headers["content-disposition"]
    layered = read_layers(answer.content)
    assert [layer.name for layer in layered.layers] == ["canonical", "sky", "héron"]
    again = new_draft(web)
    state = web.post(
        f"/canon/drafts/{again}/import", params={"name": f"x.{format}", "layer": "background", "tab": "one"},
        content=answer.content,
    ).json()  # fmt: skip
    assert [layer["name"] for layer in state["layers"]] == ["sky", "héron"]
    assert state["layers"][0]["opacity"] == pytest.approx(0.4, abs=1 / 255)
    for ours, theirs in zip(studio.draft(again).layers, studio.draft(draft).layers, strict=True):
        np.testing.assert_array_equal(ours.rgba, theirs.rgba)


# --- what is refused ---


def refused(answer: object, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    told = answer.json()  # type: ignore[attr-defined]
    assert set(told) == {"error"} and words in told["error"] and "\n" not in told["error"]
    assert "Traceback" not in told["error"]


def test_names_do_not_leave_the_project(web: TestClient, studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    shutil.copytree(studio.project.fit_folder("true"), tmp_path / "secret" / "fit")
    draft = new_draft(web)
    for name in ("../../secret/fit", "..", "../true", "/etc", "a\0b", ".hidden"):
        refused(web.get("/canon/fits/true/frames/0", params={"edits": name}), 400, "cannot be a folder's")
        refused(web.post("/canon/drafts", json={"fit": name}), 400, "")
        refused(web.post("/canon/drafts", json={"fit": "true", "edits": [name]}), 400, "cannot be a folder's")
        refused(web.post(f"/canon/drafts/{draft}/stack?tab=one", json={"edits": [name]}), 400, "cannot be a folder's")
        refused(web.get("/canon/fits/true/canvases/background", params={"edits": name}), 400, "cannot be a folder's")
    for name in ("%2e%2e", "..%2f..%2fsecret%2ffit", "%2Fetc%2Fpasswd", "..%5Csecret", "%00"):
        for path in (
            f"fits/{name}", f"fits/{name}/frames/0", f"fits/true/canvases/{name}", f"drafts/{name}",
            f"edits/{name}/history", f"assets/{name}", f"drafts/{name}/layers/1/pixels",
        ):  # fmt: skip
            answer = web.get(f"/canon/{path}")
            assert answer.status_code in (400, 404) and set(answer.json()) == {"error"}, path
    refused(web.get("/canon/assets/../api.py"), 404, "")
    refused(web.get("/canon/assets/canon.py"), 404, "")
    assert web.get("/canon/assets/canon.js").headers["content-type"].startswith("text/javascript")


def test_only_our_own_pages_may_ask(web: TestClient, studio: Studio) -> None:
    url = "/canon/fits/true/frames/0"
    for headers in (
        {"Host": "evil.example"}, {"Host": "evil.example:7860"}, {"Host": "127.0.0.1.evil.example"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ):  # fmt: skip
        refused(web.get(url, headers=headers), 403, "another site")
        refused(web.post("/canon/drafts", json={"fit": "true"}, headers=headers), 403, "another site")
    assert web.get(url, headers={"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert web.get(url, headers={"Host": "localhost:7860"}).status_code == 200
    app = FastAPI()
    app.include_router(router(studio))
    app.add_middleware(Access, host="studio.lan")
    there = TestClient(app, base_url="http://studio.lan:7860")
    assert there.get(url).status_code == 200
    refused(there.get(url, headers={"Host": "evil.example"}), 403, "another site")
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert there.get(url, headers=link).status_code == 200


def test_uploads_are_checked_before_they_are_decoded(
    web: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = new_draft(web)
    layer = studio.draft(draft).add_layer(Target("background"))
    url = f"/canon/drafts/{draft}/layers/{layer.id}/patch?x=0&y=0&tab=one"
    refused(web.post(url, content=b"no picture at all"), 400, "not a picture")
    refused(web.post(url, content=png()[:60]), 400, "picture")
    refused(web.post(url, content=b""), 400, "not a picture")
    # 60000 x 60000 pixels, a few bytes.
    head = b"IHDR" + (60000).to_bytes(4, "big") * 2 + bytes([8, 6, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big") + png()[33:]
    upload = f"/canon/drafts/{draft}/import?layer=background&tab=one"
    for target in (url, f"{upload}&name=x.png"):
        refused(web.post(target, content=bomb), 400, "picture")
    refused(web.put(f"/canon/drafts/{draft}/layers/{layer.id}/asset?tab=one", content=bomb), 400, "picture")
    refused(web.post(url.replace("x=0", "x=99999"), content=png()), 400, "not inside of the layer")
    refused(
        web.post(f"{upload}&name=x.png", content=png()),
        400,
        "keep the size",
    )
    other = encoded_layers(LayeredImage((5, 6), [PaintLayer("a", np.zeros((5, 6, 4), np.uint8))]), ".ora")
    refused(
        web.post(f"{upload}&name=x.ora", content=other),
        400,
        "keep the size",
    )
    refused(web.post(f"{upload}&name=x.psd", content=b"8BPSxx"), 400, "")
    monkeypatch.setattr(guarding, "MOST_JSON", 100)
    refused(web.post("/canon/drafts", content=b'{"fit": "' + b"x" * 200 + b'"}'), 413, "the most that can be sent")
    refused(web.post("/canon/drafts", content=b"{"), 400, "not JSON")
    refused(web.post("/canon/drafts", content=b"[1]"), 400, "not a JSON object")
    assert not studio.draft(draft).layers[0].rgba.any()


def test_a_body_is_not_read_beyond_its_limit(web: TestClient, studio: Studio) -> None:
    draft = new_draft(web)
    layer = studio.draft(draft).add_layer(Target("background"))
    taken = io.BytesIO()

    def endless() -> Iterator[bytes]:
        for _ in range(400):
            taken.write(b"x")
            yield b"\0" * (1 << 20)

    url = f"/canon/drafts/{draft}/layers/{layer.id}/asset?tab=one"
    refused(web.put(url, content=endless()), 413, "32 MiB")
    refused(web.put(url, content=b"", headers={"Content-Length": str(1 << 40)}), 413, "32 MiB")


def test_what_is_not_there(web: TestClient) -> None:
    refused(web.get("/canon/fits/gone"), 400, "no fit called 'gone'")
    refused(web.get("/canon/fits/true/frames/8"), 400, "frames 0 to 7")
    refused(web.get("/canon/fits/true/frames/-1"), 400, "frames 0 to 7")
    refused(web.get("/canon/fits/true/frames/x"), 422, "'t' cannot be used")
    refused(web.get("/canon/fits/true/frames/1?view=nothing"), 400, "can be seen as")
    refused(web.get("/canon/fits/true/frames/1?format=exe"), 400, "not as 'exe'")
    refused(web.get("/canon/fits/true/frames/1?width=99999"), 422, "'width' cannot be used")
    refused(web.get("/canon/fits/true/canvases/sky"), 400, "no layer 'sky'")
    refused(web.get("/canon/drafts/nothing"), 400, "no such drawing")
    refused(web.get("/canon/nowhere"), 404, "nothing at this address")
    draft = new_draft(web)
    targets: list[object] = [{"layer": "sky"}, {"frame": 99}, {"frame": "x"}, {"layer": 3}, [], {}]
    for target in targets:
        answer = web.post(f"/canon/drafts/{draft}/layers?tab=one", json={"target": target})
        assert answer.status_code == 400 and set(answer.json()) == {"error"}
    refused(web.get(f"/canon/drafts/{draft}/export?format=gif&layer=background"), 400, "not as 'gif'")
