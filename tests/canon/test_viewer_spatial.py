"""The viewer in three dimensions shows what the fit has, where the fit has it; in a real browser where there is one."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from motions import write_bvh
from persons import rough_fit, small_person

import canon
from canon.camera_paths import read_path
from canon.cameras import Camera, look_at, pinhole
from canon.edits import Delta, Edit, Over, Remove, Step, resize_to
from canon.errors import InputError
from canon.rasterise import interpolate, rasterise
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.storage import read_image, to_float, to_uint8
from canon.video import read_frames
from canon.viewer import spatial_truth
from canon.viewer.spatial import SpatialViewer
from canon.viewer.spatial_paths import Eye, child, load_keyframes, smooth
from canon.viewer.spatial_poses import Poses, groups, motions, read_motion
from canon.viewer.spatial_record import Recorder
from canon.viewer.spatial_scene import apart
from canon.viewer.spatial_truth import Looker, TrueView
from canon.viewer.spatial_world import Body, Relief, canvases

pytest.importorskip("viser")
pytest.importorskip("xatlas")

SIZE = (40, 56)


@pytest.fixture(scope="module")
def fit() -> NerfFit:
    return rough_fit(small_person(size=SIZE))


@pytest.fixture(scope="module")
def body(fit: NerfFit) -> Body:
    return Body(fit)


def wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def tilted(size: tuple[int, int] = SIZE, offset: float = 0.0) -> Camera:
    matrix = pinhole((70.0, 70.0), ((size[1] - 1) / 2 + offset, (size[0] - 1) / 2))
    return look_at(size, matrix, np.array([1.0, 1.5, 2.5]), np.array([0.2, 0.8, 0.1]), up=(0.2, 1.0, 0.1))


def orbiting(count: int) -> list[Eye]:
    found = []
    for angle in np.linspace(0, 2, count):
        place = np.array([2.5 * np.sin(angle), 1 + 0.3 * angle, 2.5 * np.cos(angle)])
        camera = look_at(SIZE, pinhole((60 + 10 * angle,) * 2, (27.5, 19.5)), place, np.array([0.0, 0.9, 0.0]))
        found.append(Eye.of(camera))
    return found


# --- cameras and paths ---


def test_eyes_see_what_their_cameras_see() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    camera = tilted()
    again = Eye.of(camera).camera(SIZE)
    np.testing.assert_allclose(again.project(points)[0], camera.project(points)[0], atol=1e-6)
    larger = Eye.of(camera).camera((120, 168))
    np.testing.assert_allclose(larger.project(points)[0], camera.resized((120, 168)).project(points)[0], atol=1e-6)
    with pytest.raises(InputError, match="field of view"):
        Eye(np.zeros(3), np.array([1.0, 0, 0, 0]), 4.0).camera(SIZE)


def test_a_path_goes_through_its_keyframes_without_jumps() -> None:
    keys = orbiting(4)
    way = smooth(keys, 12)
    assert len(way) == 37
    for k, key in enumerate(keys):
        assert way[12 * k] is key
    places = np.stack([eye.position for eye in way])
    steps = np.diff(places, axis=0)
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 0.15 * np.linalg.norm(steps, axis=1).max()
    turns = np.array([(a.turn.inv() * b.turn).magnitude() for a, b in pairwise(way)])
    assert turns.min() > 0.5 * turns.max() > 0
    assert len(smooth(keys[:1], 12)) == 1
    with pytest.raises(InputError, match="keyframes"):
        smooth([], 12)
    with pytest.raises(InputError, match="too long"):
        smooth(keys, 100_000)


def test_a_saved_path_holds_the_cameras_that_were_set(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SIZE, 10.0)
    recorder.seconds = 0.5
    keys = orbiting(3)
    for key in keys:
        recorder.add(key)
    path = recorder.save("around")
    assert path == tmp_path / "paths" / "around.json" and recorder.saved() == ["around"]
    cameras, points = read_path(path, SIZE), np.random.default_rng(1).normal(size=(20, 3))
    assert len(cameras) == 11
    for k, key in enumerate(keys):
        wanted = key.camera(SIZE).project(points)[0]
        np.testing.assert_allclose(cameras[5 * k].project(points)[0], wanted, atol=1e-6)
    recorder.keyframes = []
    recorder.load("around")
    for own, key in zip(recorder.keyframes, keys, strict=True):
        np.testing.assert_allclose(own.camera(SIZE).project(points)[0], key.camera(SIZE).project(points)[0], atol=1e-6)
    content = json.loads(path.read_text())
    content["keyframes"] = [{"matrix": "nonsense"}]
    path.write_text(json.dumps(content))
    assert len(load_keyframes(path, SIZE)) == 11  # of its frames, then
    path.write_text("{}")
    with pytest.raises(InputError, match=r"around\.json' cannot be read"):
        recorder.load("around")


@pytest.mark.parametrize("name", ["", "../up", "/etc/x", "a/b", "..", ".hidden", "x" * 200, "a\0b"])
def test_files_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a file's"):
        child(tmp_path, name, ".json")


def test_without_a_folder_nothing_is_written() -> None:
    recorder = Recorder(None, SIZE, 10.0)
    recorder.add(orbiting(1)[0])
    with pytest.raises(InputError, match="Nothing can be written"):
        recorder.save("x")
    with pytest.raises(InputError, match="height of 5"):
        recorder.sized(5)
    assert recorder.saved() == [] and recorder.sized(41) == (40, 58)


def test_cameras_that_stand_still_are_one() -> None:
    still, other = tilted(), orbiting(2)[1].camera(SIZE)
    assert apart([still, still, other, still], 0.05) == [0, 2]
    assert len(apart([eye.camera(SIZE) for eye in orbiting(200)], 1e-4)) == 24


# --- the person ---


def test_the_surface_is_the_fits_own(fit: NerfFit, body: Body) -> None:
    pose = fit.posed(1)
    assert pose is not None
    exact, quick = body.exact(pose), body.quick(pose)
    grid = np.stack(np.meshgrid(np.arange(body.size[1]), np.arange(body.size[0])), axis=-1).reshape(-1, 2)
    pixels, doubt = fit.pixels_of(1, "human", grid.astype(np.float32), np.zeros(0))
    places = interpolate(fit.model.charts(), body.faces, exact)[grid[:, 1], grid[:, 0]]
    found = fit.cameras[1].project(places.astype(np.float64))[0]
    seen = np.isfinite(doubt)
    assert seen.sum() > 100
    assert np.abs(found - pixels)[seen].max() < 0.01
    apart = np.linalg.norm(exact - quick, axis=1)
    assert np.median(apart) < 0.01 and np.quantile(apart, 0.95) < 0.03
    again = Body(fit)
    assert again.known(pose) is None
    np.testing.assert_array_equal(again.exact(pose), exact)
    assert again.known(pose) is not None


def test_skinning_is_quick(fit: NerfFit, body: Body) -> None:
    pose = fit.posed(0)
    assert pose is not None
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        body.quick(pose)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.02


def test_poses(fit: NerfFit, tmp_path: Path) -> None:
    poses = Poses(fit)
    first, second = fit.posed(0), fit.posed(1)
    assert first is not None and second is not None
    assert poses.own(1) is None and poses.count == len(fit)
    own = poses.at(1)
    assert own is not None
    np.testing.assert_array_equal(own[0], second[0])
    poses.rest = True
    rest = poses.at(1)
    assert rest is not None
    np.testing.assert_array_equal(rest[0][0], second[0][0])
    np.testing.assert_array_equal(rest[0][1:], np.tile(np.eye(3), (23, 1, 1)))
    np.testing.assert_array_equal(rest[1], second[1])
    poses.rest = False
    poses.turns[16] = [0, 0, 90]
    turned = poses.at(0)
    assert turned is not None
    expected = first[0][16] @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(turned[0][16], expected, atol=1e-6)
    np.testing.assert_allclose(np.delete(turned[0], 16, axis=0), np.delete(first[0], 16, axis=0), atol=1e-7)

    assert fit.clip.poses is not None
    (tmp_path / "moves").mkdir()
    write_bvh(fit.clip.poses, tmp_path / "moves" / "walk.bvh")
    assert motions(tmp_path) == ["moves/walk.bvh"] and motions(None) == []
    poses.turns[:] = 0
    poses.motion = read_motion(fit, tmp_path, "moves/walk.bvh")
    moved = poses.at(2)
    assert moved is not None
    assert np.abs(moved[1] - fit.clip.poses.root[2]).max() < 0.02
    for name in ("../walk.bvh", "/etc/passwd", "missing.bvh", "moves"):
        with pytest.raises(InputError):
            read_motion(fit, tmp_path, name)


def test_joints_are_in_the_parts_of_the_body(body: Body) -> None:
    found = groups(body.joints)
    assert sorted(number for own in found.values() for number in own) == list(range(24))
    assert [body.joints[k] for k in found["left leg"]] == ["left_hip", "left_knee", "left_ankle", "left_foot"]


# --- the world and its colours ---


def test_the_background_lies_where_the_frames_show_it(fit: NerfFit) -> None:
    relief = Relief.of(fit)
    assert relief is not None and fit.model.panorama is not None
    assert np.abs(fit.model.panorama.coordinates(relief.vertices) - relief.uv).max() < 0.01
    camera = fit.cameras[0]
    raster = rasterise(relief.vertices, relief.faces, camera)
    hit = raster.face >= 0
    assert hit.mean() > 0.95
    uv = interpolate(raster, relief.faces, relief.uv)
    own = fit.model.panorama.coordinates(fit.coordinates_3d(0, "background"))
    assert np.median(np.linalg.norm(uv - own, axis=-1)[hit]) < 1.0
    assert np.median(np.abs(raster.depth / fit.depth[0] - 1)[hit]) < 0.05


def painted(fit: NerfFit) -> Edit:
    height, width = fit.canonical("human").size
    rgba = np.zeros((height, width, 4), np.float32)
    rgba[:, : width // 2] = (1, 0, 1, 1)
    return Edit([Step("human", Over(rgba)), Step("background", Delta(exposure=-2.0))], fit.id)


def test_canvases_show_the_edits(fit: NerfFit) -> None:
    plain, edited = canvases(fit, []), canvases(fit, [painted(fit)])
    middle = plain["human"].shape[1] // 2
    known = fit.canonical("human").rgba[..., 3] == 1
    left, right = known.copy(), known.copy()
    left[:, middle - 1 :], right[:, : middle + 1] = False, False
    assert left.sum() > 100 < right.sum()
    assert (edited["human"][left] == (255, 0, 255)).all()
    np.testing.assert_array_equal(edited["human"][right], plain["human"][right])
    assert edited["background"].mean() < 0.6 * plain["background"].mean()
    assert list(canvases(fit, [Edit([Step("human", Remove())], fit.id)])) == ["background"]


def test_a_true_view_is_what_the_fit_renders(fit: NerfFit) -> None:
    camera, pose = tilted((24, 34)), fit.posed(2)
    whole = Looker(fit).picture(1, camera, None, ["human", "background"])
    expected = fit.from_elsewhere([camera], None, [1]).clip.frames[0]
    np.testing.assert_array_equal(whole, expected)
    parts = Looker(fit).picture(1, camera, None, ["human", "background"], rows=7)
    assert parts is not None and np.abs(parts.astype(int) - expected).max() <= 1
    alone = Looker(fit).picture(1, camera, pose, ["human"], rows=7)
    assert alone is not None
    assert np.abs(alone / 255 - fit.view(1, camera, pose, ["human"])).max() < 0.01
    asked = iter([True, True, False])
    assert Looker(fit).picture(1, camera, None, ["human"], lambda: next(asked), rows=7) is None
    assert not Looker(fit).picture(1, camera, None, []).any()  # type: ignore[union-attr]


def test_a_true_view_with_paint_is_what_render_makes(fit: NerfFit) -> None:
    camera = fit.cameras[0]
    looker = Looker(fit, [painted(fit)])
    expected = canon.render(fit.from_elsewhere([camera], None, [0]), [painted(fit)])[0]
    np.testing.assert_array_equal(looker.picture(0, camera, None, ["human", "background"]), expected)
    alone = looker.picture(0, camera, None, ["human"])
    behind = looker.picture(0, camera, None, ["background"])
    assert alone is not None and behind is not None
    corner, chest = (3, 3), (SIZE[0] // 2, SIZE[1] // 2)
    assert not alone[corner].any() and alone[chest].any() and behind[corner].any()
    assert np.abs(behind[chest].astype(int) - expected[chest]).max() > 20


def test_a_camera_that_moves_on_is_not_waited_for() -> None:
    sent: list[tuple[int, int]] = []
    asked = []

    def picture(camera: Camera, wanted: Callable[[], bool], rows: int | None) -> np.ndarray | None:
        asked.append(camera.size)
        end = time.monotonic() + (0.01 if rows is None else 1.0)
        while time.monotonic() < end:
            if not wanted():
                return None
            time.sleep(0.005)
        return np.zeros((*camera.size, 3), np.uint8)

    truth = TrueView(picture, lambda client, found, stage: sent.append((client, stage)))
    try:
        first, second = orbiting(2)
        truth.want(7, first, (400, 600))
        wait(lambda: len(asked) == 2)  # the rough one, and the finer one begins
        begin = time.monotonic()
        truth.want(7, second, (400, 600))
        wait(lambda: len(sent) == 2)
        assert time.monotonic() - begin < 0.5 and sent == [(7, 0), (7, 0)]
        wait(lambda: (7, 1) in sent)
        assert asked[0][0] * asked[0][1] < asked[2 + 1][0] * asked[2 + 1][1] <= 400 * 600
        truth.forget(7)
    finally:
        truth.stop()


# --- the server ---


def test_what_cannot_be_opened_is_said_in_a_sentence(fit: NerfFit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"The port {port} of '127.0.0.1' cannot be used"):
            SpatialViewer(fit, port=port).start()
    with pytest.raises(InputError, match="no port 70000"):
        SpatialViewer(fit, port=70_000).start()
    with pytest.raises(InputError, match=r"cannot be opened on '192\.0\.2\.1'"):
        SpatialViewer(fit, host="192.0.2.1").start()
    with pytest.raises(InputError, match="not open"):
        _ = SpatialViewer(fit).url


def test_pages_of_other_sites_are_refused_and_nothing_is_shared(fit: NerfFit) -> None:
    import viser
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with SpatialViewer(fit) as viewer:
        host = viewer.url.removeprefix("http://")
        protocol: Any = [f"viser-v{viser.__version__}"]
        for origin in ("http://evil.example", f"http://localhost:{1 + int(host.split(':')[1])}"):
            foreign = connect(f"ws://{host}", origin=origin, subprotocols=protocol)  # type: ignore[arg-type]
            with foreign, pytest.raises(ConnectionClosed, match="other sites"):
                for _ in range(20):
                    foreign.recv(timeout=5)
        with connect(f"ws://{host}", origin=viewer.url, subprotocols=protocol) as own:  # type: ignore[arg-type]
            assert own.recv(timeout=5)
        assert viewer._server.request_share_url() is None


def test_a_film_is_written_whole_or_not_at_all(fit: NerfFit, tmp_path: Path) -> None:
    viewer = SpatialViewer(fit, out=tmp_path)
    viewer.recorder.seconds = 2 / viewer.recorder.fps
    ended: list[str] = []
    with pytest.raises(InputError, match="keyframes"):
        viewer.film("way", 16, lambda share, words: ended.append(words))
    for key in orbiting(3):
        viewer.recorder.add(key)
    viewer.film("way", 16, lambda share, words: ended.append(words))
    with pytest.raises(InputError, match="already"):
        viewer.film("other", 16, lambda share, words: None)
    wait(lambda: viewer.filming is not None and not viewer.filming.running)
    assert ended[-1] == "way.mp4: 5 frames"
    assert len(list(read_frames(tmp_path / "renders" / "way.mp4"))) == 5
    viewer.film("cut", 600, lambda share, words: ended.append(words))
    assert viewer.filming is not None
    viewer.filming.cancel(wait=True)
    assert ended[-1] == "cancelled" and [path.name for path in (tmp_path / "renders").iterdir()] == ["way.mp4"]


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def opened(browser: Any, url: str) -> tuple[Any, list[str]]:
    """A page with the viewer, and a list that gets what is wrong with it."""
    page, wrong = browser.new_page(viewport={"width": 960, "height": 600}), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(url)
    return page, wrong


@pytest.fixture
def viewer(fit: NerfFit, tmp_path: Path) -> Iterator[SpatialViewer]:
    with SpatialViewer(fit, {"paint": painted(fit)}, out=tmp_path) as found:
        found.active["paint"] = False
        found.change("canvases")
        yield found


def look(viewer: SpatialViewer, camera: Camera, times: int = 6) -> np.ndarray:
    """What the browser draws from where a camera is, uint8 [times H, times W, 4]; transparent where nothing is."""
    (client,) = viewer._clients().values()
    eye, (height, width) = Eye.of(camera), camera.size
    found = client.get_render(
        height * times, width * times, wxyz=eye.wxyz, position=eye.position, fov=eye.fov, transport_format="png"
    )
    return np.asarray(found)


def silhouette(vertices: np.ndarray, faces: np.ndarray, camera: Camera, times: int = 6) -> np.ndarray:
    size = camera.size[0] * times, camera.size[1] * times
    return rasterise(vertices, faces, camera.resized(size)).face >= 0


def edges(mask: np.ndarray) -> np.ndarray:
    """The first and last row and column that a mask has, and its middle."""
    y, x = np.nonzero(mask)
    return np.array([y.min(), y.max(), x.min(), x.max(), y.mean(), x.mean()])


def same(mask: np.ndarray, wanted: np.ndarray) -> bool:
    overlap = (mask & wanted).sum() / max((mask | wanted).sum(), 1)
    return bool(overlap > 0.97)


def test_the_browser_has_the_person_where_the_fit_has_them(browser: Any, viewer: SpatialViewer, fit: NerfFit) -> None:
    page, wrong = opened(browser, viewer.url)
    wait(lambda: len(viewer._clients()) == 1)
    viewer.visible |= {"background": False, "cameras": False}
    viewer.change("visible")
    body, times = viewer.body, 6
    assert body is not None

    def drawn(t: int, camera: Camera) -> np.ndarray:
        """Once it is the fit's own surface."""
        pose = viewer.poses.at(t)
        assert pose is not None
        wanted = silhouette(body.exact(pose), body.faces, camera, times)
        wait(lambda: same(look(viewer, camera)[..., 3] > 127, wanted))
        found = look(viewer, camera)
        off = edges(found[..., 3] > 127) - edges(wanted)
        assert np.abs(off).max() <= times / 2, f"half a pixel of the clip, {off}"
        return found

    # The clip's own camera, in which the fit shows the same person.
    picture = drawn(0, fit.cameras[0])
    person = fit.view(0, fit.cameras[0].resized((SIZE[0] * times, SIZE[1] * times)), None, ["human"]).max(axis=-1) > 0.1
    assert np.abs(edges(picture[..., 3] > 127)[4:] - edges(person)[4:]).max() < times
    # Its colours are the canvas's.
    pose = viewer.poses.at(0)
    assert pose is not None
    camera = fit.cameras[0].resized((SIZE[0] * times, SIZE[1] * times))
    raster = rasterise(body.exact(pose), body.faces, camera)
    x, y = np.round(interpolate(raster, body.faces, body.uv)).astype(int).reshape(-1, 2).T
    canvas = canvases(fit, [])["human"][y, x].reshape(*raster.face.shape, 3)
    apart = np.abs(picture[..., :3].astype(int) - canvas).max(axis=-1)[raster.face >= 0]
    assert np.median(apart) < 6

    viewer.go(2)
    assert not same(silhouette(body.exact(viewer.poses.at(0)), body.faces, tilted()),  # type: ignore[arg-type]
                    silhouette(body.exact(viewer.poses.at(2)), body.faces, tilted()))  # type: ignore[arg-type]  # fmt: skip
    drawn(2, tilted())
    viewer.poses.turns[16] = [0, 0, 70]
    viewer.change("pose")
    drawn(2, tilted())
    viewer.controls._reset_joints()
    viewer.controls._choose_pose("T-pose")
    drawn(2, tilted())
    viewer.set_edits({"gone": Edit([Step("human", Remove())], fit.id)})
    wait(lambda: not look(viewer, tilted())[..., 3].any())
    page.close()
    assert not wrong


def test_the_panel_in_two_browsers(browser: Any, viewer: SpatialViewer, fit: NerfFit, tmp_path: Path) -> None:
    page, wrong = opened(browser, viewer.url)
    wait(lambda: len(viewer._clients()) == 1)
    (client,) = viewer._clients().values()
    other, also = opened(browser, viewer.url)
    wait(lambda: len(viewer._clients()) == 2)
    (guest,) = (each for each in viewer._clients().values() if each is not client)

    page.get_by_text("to this frame's camera").click()
    wait(lambda: np.allclose(client.camera.position, fit.cameras[0].position, atol=1e-3))
    assert np.linalg.norm(guest.camera.position - fit.cameras[0].position) > 0.5  # everybody looks for themselves
    assert not viewer.visible["cameras"]
    viewer.controls.show_step(1)
    wait(lambda: other.get_by_role("textbox").first.input_value() == "1")  # and time is the same for all
    page.get_by_text("Camera path").click()
    page.get_by_text("add keyframe").click()
    wait(lambda: len(viewer.recorder.keyframes) == 1)
    viewer.jump(client, orbiting(2)[1])
    wait(lambda: np.allclose(client.camera.position, orbiting(2)[1].position, atol=1e-3))
    page.get_by_text("add keyframe").click()
    wait(lambda: len(viewer.recorder.keyframes) == 2)
    page.get_by_text("save", exact=True).click()
    wait(lambda: (tmp_path / "paths" / "path.json").is_file())
    points = np.array([[0.0, 1.0, 0.0], [0.3, 0.5, 0.2]])
    first, last = (read_path(tmp_path / "paths" / "path.json", SIZE)[k] for k in (0, -1))
    for found, wanted in ((first, fit.cameras[0]), (last, orbiting(2)[1].camera(SIZE))):
        assert np.abs(found.project(points)[0] - wanted.project(points)[0]).max() < 0.05
    page.locator("input[value='path']").fill("../out")
    wait(lambda: viewer.controls._name.value == "../out")
    page.get_by_text("save", exact=True).click()
    page.get_by_text("cannot be a file's").wait_for()
    assert not (tmp_path.parent / "out.json").exists()
    page.close()
    wait(lambda: list(viewer._clients().values()) == [guest])
    other.close()
    assert not wrong + also


def test_the_true_view_takes_the_place_of_the_surfaces(
    browser: Any, viewer: SpatialViewer, fit: NerfFit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spatial_truth, "_SECONDS", (0.05, 0.2, 0.6))
    page, wrong = opened(browser, viewer.url)
    wait(lambda: len(viewer._clients()) == 1)
    (client,) = viewer._clients().values()
    page.get_by_text("to this frame's camera").click()
    wait(lambda: np.allclose(client.camera.position, fit.cameras[0].position, atol=1e-3))
    page.get_by_text("true view").click()
    page.get_by_text("sharp,").wait_for(timeout=60_000)
    eye = Eye(np.array(client.camera.position), np.array(client.camera.wxyz), float(client.camera.fov))
    picture = Looker(fit).picture(0, eye.camera((50, 80)), None, ["human", "background"])
    assert picture is not None
    expected: np.ndarray = picture

    def shown() -> np.ndarray:
        page.screenshot(path=tmp_path / "page.png")
        found = resize_to(to_float(read_image(tmp_path / "page.png")[..., :3]), (50, 80))
        return to_uint8(found)

    middle = (slice(20, 50), slice(5, 48))  # beside the panel, and below what viser says about the GPU
    wait(lambda: np.abs(shown()[middle].astype(int) - expected[middle]).mean() < 6)
    page.get_by_text("true view").click()
    wait(lambda: np.abs(shown()[middle].astype(int) - expected[middle]).mean() > 8)
    page.close()
    assert not wrong
