"""The explorer's command and the data of its page, against the equations in loops and the other commands."""

import html
import math
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from _helpers.camvid_files import write_camvid
from _helpers.fake_runs import change
from _helpers.four_patches import CELLS, ITERATIONS, SIZE, data_of, features, layer_of, patches
from _helpers.report_page import Page
from _helpers.tiny import call
from _helpers.untrained import photograph, untrained
from em import oracle
from PIL import Image
from torch import Tensor

from hemnet.config.build import restore
from hemnet.errors import HemnetError
from hemnet.explore import __main__ as door
from hemnet.explore.packing import decoded, unpacked
from hemnet.explore.rendering import LONGEST
from hemnet.explore.writing import Wish, explore
from hemnet.runs.run import Run
from hemnet.using.prediction import predict


def fit(run: Run, image: np.ndarray, iterations: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """By loops in float64, of each iteration: z (N, K), mu after it (K, C), y (N, C)."""
    network, _ = restore(run)
    layer = layer_of(network)
    x_BNC, mu_BKC = features(run, image)[None], layer.means[None]
    found = []
    for t in range(1, iterations + 1):
        y_BNC, trajectory, z_BNK = oracle.unroll(
            x_BNC, mu_BKC, highway_scales=[layer.highway_scale] * t, assignment=layer.assignment,
            variance=layer.variance, normalize=layer.normalize,
        )  # fmt: skip
        found.append((z_BNK[0], trajectory[-1, 0], y_BNC[0]))
    return found


@pytest.mark.parametrize("iterations", [None, 2])
def test_the_page_has_what_the_equations_give(run: Run, tmp_path: Path, iterations: int | None) -> None:
    page = explore(run.path, Wish(images=1, iterations=iterations), output=tmp_path / "page.html")
    (entry,) = data_of(page)["photographs"]
    image, mask = patches()
    count, x_NC = iterations or ITERATIONS, features(run, image).double()
    network, _ = restore(run)
    layer = layer_of(network)
    fits = fit(run, image, count)
    assert entry["z"]["shape"] == [count, 4, *CELLS]
    assert entry["name"] == "ahead"
    assert entry["cells"] == list(CELLS)
    z_TKhw, entropy_Thw = decoded(unpacked(entry["z"])), unpacked(entry["entropy"])
    mus = [layer.means.double(), *(mu for _, mu, _ in fits)]
    for t, (z_NK, _, y_NC) in enumerate(fits):
        np.testing.assert_allclose(z_TKhw[t].reshape(4, -1).T, z_NK, atol=1 / 255 + 1e-4)
        assert entry["occupancy"][t] == pytest.approx(z_NK.mean(0).tolist(), rel=2e-3)
        nats = torch.special.entr(z_NK).sum(1)
        np.testing.assert_allclose(entropy_Thw[t].ravel() / 255 * math.log(4), nats, atol=math.log(4) / 255)
        missed = (x_NC - y_NC).square().sum() / (x_NC - x_NC.mean(0)).square().sum()
        assert entry["error"][t] == pytest.approx(float(missed), rel=1e-3)
    for t, mu_KC in enumerate(mus):
        likelihood = oracle.log_likelihood(x_NC[None], mu_KC[None], variance=layer.variance)
        assert entry["likelihood"][t] == pytest.approx(float(likelihood), rel=1e-4)
    assert len(entry["likelihood"]) == count + 1
    np.testing.assert_array_equal(unpacked(entry["truth"]), mask)


def test_colours_are_principal_components_and_one_scale_for_features_and_reconstruction(
    run: Run, tmp_path: Path
) -> None:
    (entry,) = data_of(explore(run.path, Wish(images=1), output=tmp_path / "page.html"))["photographs"]
    x_NC = features(run, patches()[0]).double().numpy()
    mean_C = x_NC.mean(0)
    _, s_C, axes_CC = np.linalg.svd(x_NC - mean_C, full_matrices=False)
    assert entry["explained"] == pytest.approx((s_C[:3] ** 2).sum() / (s_C**2).sum(), abs=1e-4)
    y_NC = fit(run, patches()[0], ITERATIONS)[-1][2].numpy()
    features_N3 = unpacked(entry["features"]).reshape(-1, 3)
    shown_N3 = unpacked(entry["reconstruction"])[-1].reshape(-1, 3)
    for axis in range(3):
        along = axes_CC[axis] * np.sign(axes_CC[axis][np.abs(axes_CC[axis]).argmax()])
        low, high = np.quantile((x_NC - mean_C) @ along, [0.02, 0.98])
        for colours_N3, values_NC in ((features_N3, x_NC), (shown_N3, y_NC)):
            place = (((values_NC - mean_C) @ along) - low) / (high - low)
            np.testing.assert_allclose(colours_N3[:, axis], 255 * place.clip(0, 1), atol=1)


def test_the_prediction_is_that_of_predict_and_the_padding_is_not_shown(run: Run, tmp_path: Path) -> None:
    path = photograph(tmp_path / "in" / "odd.png", size=(61, 90))
    masks = predict(run.path, path, "last", tmp_path / "masks")
    (entry,) = data_of(explore(run.path, Wish([path]), output=tmp_path / "page.html"))["photographs"]
    with Image.open(masks / "odd_mask.png") as mask:
        np.testing.assert_array_equal(unpacked(entry["prediction"]), np.asarray(mask))
    assert entry["cells"] == pytest.approx([61 / 8, 90 / 8])  # of the map of 64 x 96 pixels, at stride 8
    assert entry["z"]["shape"][2:] == [8, 12]
    assert entry["truth"] is None
    assert (entry["height"], entry["width"]) == (61, 90)
    # Padding is in no mean and no share: a cell counts by the part of it that is of the photograph.
    inside_hw = np.minimum.outer(np.clip(61 / 8 - np.arange(8), 0, 1), np.ones(12))
    inside_hw = inside_hw * np.clip(90 / 8 - np.arange(12), 0, 1)
    z_TKhw = decoded(unpacked(entry["z"]))
    share_TK = (z_TKhw * inside_hw).sum((2, 3)) / inside_hw.sum()
    np.testing.assert_allclose(entry["occupancy"], share_TK, atol=1 / 255)
    plain_TK = z_TKhw.mean((2, 3))
    assert np.abs(plain_TK - share_TK).max() > 0.002, "padding would make no difference"


@pytest.mark.parametrize("head", ["em", "emanet"])
def test_other_heads_have_their_own_equations(head: str, tmp_path: Path) -> None:
    other = untrained(tmp_path / "run", f"model/head={head}", "model.head.iterations=3")[0]
    path = photograph(tmp_path / "a.png", size=(32, 40))
    (entry,) = data_of(explore(other.path, Wish([path])))["photographs"]
    with Image.open(path) as image:
        fits = fit(other, np.asarray(image), 3)
    for t, (z_NK, _, _) in enumerate(fits):
        shown_NK = decoded(unpacked(entry["z"]))[t].reshape(4, -1).T
        np.testing.assert_allclose(shown_NK, z_NK, atol=1 / 255 + 1e-4)


def test_a_few_photographs_of_the_split_are_read_without_its_cache(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    change(copy / "config.yaml", "data.cache", str(tmp_path / "cache"))
    explore(copy, Wish(images=1), output=tmp_path / "a.html")
    assert not (tmp_path / "cache").exists()


def test_large_photographs_are_shrunk_and_many_are_spread(run: Run, tmp_path: Path) -> None:
    photograph(tmp_path / "in" / "0.png", size=(20, 2 * LONGEST))
    for i in range(1, 5):
        photograph(tmp_path / "in" / f"{i}.png", i, size=(24, 32))
    page = explore(run.path, Wish([tmp_path / "in"], images=3), output=tmp_path / "page.html")
    entries = data_of(page)["photographs"]
    assert [entry["name"] for entry in entries] == ["0.png", "2.png", "4.png"]
    assert (entries[0]["height"], entries[0]["width"]) == (10, LONGEST)
    assert unpacked(entries[0]["prediction"]).shape == (10, LONGEST)


def test_the_command_as_it_is_called(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    done = call("hemnet.explore", "run", "--images", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "run" / "explore.html"
    assert f"written to {page}" in done.stdout
    assert "1 photograph of 2" in done.stdout
    said = int(re.search(r"ahead: (\d+) KB, of 4 components x 5 iterations on 16 x 24 cells", done.stdout)[1])
    assert said == pytest.approx(page.stat().st_size / 1000, abs=50)  # besides its script and style
    done = call("hemnet.explore", "run", "--layer", "head.em", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --layer head.em: the EM layers of this network are head.context.em\n"


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["explore", *map(str, words)])
    door._entry()


def test_the_name_of_the_page_tells_what_differs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, own := tmp_path / "run")
    path = photograph(tmp_path / "x.png", size=(24, 32))
    command(monkeypatch, own, path, "--iterations", 3, "--layer", "head.context.em")
    page = own / "explore-T3-head.context.em-x.html"
    assert data_of(page)["photographs"][0]["z"]["shape"][0] == 3
    command(monkeypatch, own, "--split", "train", "data.eval_transform.longest=64", "--images", 1)
    (page,) = set(own.glob("*.html")) - {page}
    assert page.name.startswith("explore-last-")
    assert "train" in page.name
    assert data_of(page)["photographs"][0]["z"]["shape"][2:] == [6, 8]  # 43 x 64 pixels at stride 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "no run at"),
        (["RUN", "--images", "0"], "--images 0: give a number from 1 to 1000000"),
        (["RUN", "--iterations", "0"], "--iterations 0: give a number from 1 to 1000000"),
        (["RUN", "nothing"], "no image or folder at"),
        (["RUN", "--split", "nosuch"], "nosuch"),
        (["RUN", "--checkpoint", "best"], "no checkpoint at"),
        (["RUN", "data.nosuch=1"], "nosuch"),
    ],
)
def test_what_cannot_be_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    with pytest.raises(HemnetError, match=said):
        command(monkeypatch, *(run.path if word == "RUN" else word for word in words))
    assert not list(run.path.glob("*.html"))


def test_a_run_without_an_em_layer_is_refused_by_name(tmp_path: Path) -> None:
    other = untrained(tmp_path / "run", "model/head=fcn", replacing="num_components")[0]
    with pytest.raises(HemnetError, match=r"run has the head fcn, which has no EM layer .* model/head=hem"):
        explore(other.path, Wish([photograph(tmp_path / "a.png", size=(24, 32))]))
    assert not list(other.path.glob("*.html"))


def test_without_iterations_there_is_nothing_to_see(tmp_path: Path) -> None:
    other = untrained(tmp_path / "run", "model.head.iterations=0")[0]
    path = photograph(tmp_path / "a.png", size=(24, 32))
    with pytest.raises(HemnetError, match="0 EM iterations: give a number of them with --iterations"):
        explore(other.path, Wish([path]))
    (entry,) = data_of(explore(other.path, Wish([path], iterations=1)))["photographs"]
    assert entry["z"]["shape"][0] == 1


def test_a_page_of_something_else_is_not_replaced(run: Run, tmp_path: Path) -> None:
    one, two = (photograph(tmp_path / f"{i}.png", i, size=(24, 32)) for i in range(2))
    page = tmp_path / "page.html"
    page.write_text("<p>mine</p>")
    with pytest.raises(HemnetError, match=r"page\.html exists, and does not say that this network made it"):
        explore(run.path, Wish([one]), output=page)
    assert page.read_text() == "<p>mine</p>"
    page.unlink()
    explore(run.path, Wish([one]), output=page)
    explore(run.path, Wish([one]), output=page)  # again
    before = page.read_bytes()
    for wish, changes in (
        (Wish([two]), []), (Wish(), []), (Wish([one], iterations=2), []),
        (Wish([one], layer="head.context.em"), []),
        (Wish([one]), ["data.eval_transform.longest=24"]),
    ):  # fmt: skip
        with pytest.raises(HemnetError, match="was made with"):
            explore(run.path, wish, output=page, assignments=changes)
    assert page.read_bytes() == before


def test_pages_of_other_photographs_are_beside_each_other(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, own := tmp_path / "run")
    photos = [photograph(tmp_path / "in" / f"{i}.png", i, size=(24, 32)) for i in range(3)]
    wish = Wish([tmp_path / "in"])
    first = explore(own, wish)
    assert explore(own, wish) == first
    assert first.name == "explore-in.html"
    pages = {first, explore(own, Wish([tmp_path / "in"], images=2))}  # fewer of them
    photograph(photos[0], 9, size=(24, 32))  # of the same name and size
    pages.add(other := explore(own, wish))
    assert explore(own, wish) == other
    assert pages == set(own.glob("explore-in*.html"))
    assert len(pages) == 3
    with pytest.raises(
        HemnetError, match=r"explore-in\.html was made with photographs \w{12}, not \w{12}: cho"
    ):
        explore(own, wish, output=first)


def test_the_page_refers_to_nothing_outside_and_shows_hostile_names_as_text(run: Run, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>&amp;.png".replace("/", "\u2215")
    path = photograph(tmp_path / name, size=(24, 32))
    text = explore(run.path, Wish([path]), output=tmp_path / "page.html").read_text("utf-8")
    page = Page(text)
    assert not [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert "link" not in page.tags
    assert "img" not in page.tags
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "url(" not in text
    assert "@import" not in text
    policy = html.unescape(re.search(r'Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert data_of(tmp_path / "page.html")["photographs"][0]["name"] == path.name


@pytest.mark.parametrize(
    "output", ["a folder", "image.png/page.html", "n" * 300, "no/" + "n" * 250 + ".html"]
)
def test_a_page_that_cannot_be_written_is_said_before_a_photograph_is_read(
    run: Run, tmp_path: Path, output: str
) -> None:
    path = photograph(tmp_path / "image.png", size=(24, 32))
    (tmp_path / "a folder").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(HemnetError, match=r"cannot write .*: choose another --output"):
        explore(run.path, Wish([tmp_path / "broken.png"]), output=tmp_path / output)
    assert path.is_file()
    assert not list(tmp_path.rglob("*.part*"))


def test_an_image_whose_name_is_too_long_for_the_page_has_a_remedy(run: Run, tmp_path: Path) -> None:
    path = photograph(tmp_path / f"{'n' * 248}.png", size=(24, 32))
    with pytest.raises(HemnetError, match=r"name too long.*: choose another --output"):
        explore(run.path, Wish([path]))
    explore(run.path, Wish([path]), output=tmp_path / "page.html")


def test_features_that_do_not_vary_have_no_error_and_no_components(run: Run, tmp_path: Path) -> None:
    one_cell = photograph(tmp_path / "one.png", size=(1, 1))
    (entry,) = data_of(explore(run.path, Wish([one_cell]), output=tmp_path / "one.html"))["photographs"]
    dead = untrained(tmp_path / "dead")[0]
    content = torch.load(dead.checkpoint(), weights_only=True)
    content["state_dict"]["network.head.context.conv1.weight"].zero_()
    torch.save(content, dead.checkpoint())
    path = photograph(tmp_path / "a.png", size=(24, 32))
    (other,) = data_of(explore(dead.path, Wish([path]), output=tmp_path / "dead.html"))["photographs"]
    for found in (entry, other):
        assert found["explained"] is None
        assert set(found["error"]) == {None}
        assert not unpacked(found["features"]).any()
        assert not unpacked(found["reconstruction"]).any()


def test_a_damaged_image_is_named_and_leaves_no_page(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(HemnetError, match=r"broken\.png"):
        explore(run.path, Wish([tmp_path / "broken.png"]), output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_split_of_images_alone_has_no_truth(run: Run, tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "camvid", {"train": 1, "val": 1, "test": 1}, SIZE)
    shutil.rmtree(root / "testannot")
    changes = [f"data.root={root}", "data.val.split=test"]
    page = explore(run.path, Wish(), output=tmp_path / "page.html", assignments=changes)
    assert data_of(page)["photographs"][0]["truth"] is None


def test_a_file_whose_name_is_no_text_is_shown(run: Run, tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.png", size=(24, 32))
    path = path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    page = explore(run.path, Wish([path]), output=tmp_path / "page.html")
    assert data_of(page)["photographs"][0]["name"] == "\udcff.png"


def test_features_that_overflow_are_refused(tmp_path: Path) -> None:
    other = untrained(tmp_path / "run")[0]
    path = other.checkpoint()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.head.context.conv1.weight"].mul_(1e25)
    torch.save(content, path)
    with pytest.raises(HemnetError, match="not finite: use another checkpoint"):
        explore(other.path, Wish([photograph(tmp_path / "a.png", size=(24, 32))]))


def test_of_several_layers_one_is_chosen_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    second = "{_target_: hemnet.nets.EMHead, channels: 8, num_components: 3}"
    other = untrained(tmp_path / "run", f"+model.auxiliary={second}")[0]
    path = photograph(tmp_path / "a.png", size=(24, 32))
    (entry,) = data_of(explore(other.path, Wish([path])))["photographs"]
    assert entry["z"]["shape"][1] == 4
    assert "EM layers: head.context.em, auxiliary.context.em; shown is the first" in caplog.text
    with pytest.raises(HemnetError, match=r"auxiliary\.context\.em does not run in evaluation"):
        explore(other.path, Wish([path], layer="auxiliary.context.em"))


def test_frames_of_a_video_are_spread(run: Run, tmp_path: Path) -> None:
    written = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 24))
    if not written.isOpened():
        pytest.skip("OpenCV writes no video here")
    for level in range(0, 250, 50):
        written.write(np.full((24, 32, 3), level, np.uint8))
    written.release()
    page = explore(run.path, Wish([tmp_path / "a.avi"], images=2), output=tmp_path / "page.html")
    assert [entry["name"] for entry in data_of(page)["photographs"]] == ["frame 1", "frame 5"]
