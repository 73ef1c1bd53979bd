"""The card: complete, self-contained, readable by machines and people, and never fooled by a name."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from detection_heads import manifest_of

from controller.lifecycle.card import CardFacts, render_card
from controller.lifecycle.card.confusion import confusion_section
from controller.lifecycle.card.making import card_maker, card_of
from controller.lifecycle.card.words import input_steps
from controller.lifecycle.evaluation.evaluate import Evaluation
from controller.lifecycle.evaluation.examples import Example
from controller.registry.publish import publish
from runtime.drawing.canvas import contrast
from runtime.evaluation.metrics import METRICS, Confusion
from runtime.evaluation.metrics.classification import ClassificationJudge
from runtime.manifest import Manifest, RejectedVariant
from runtime.page.markup import Markup, joined, tag
from runtime.probe import probe_root
from runtime.recipe import Hog, Preprocess, Resize
from runtime.store import ModelStore
from runtime.tasks import Classification, LabelScore

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects what a page holds, and sees that its elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.seen if found == name]


def evaluation_of(manifest: Manifest, truth: list[int], said: list[int]) -> Evaluation:
    judge = ClassificationJudge(manifest)
    for label, answer in zip(truth, said, strict=True):
        one = LabelScore(answer, manifest.labels[answer], 0.75)
        judge.add(Classification(answer, one.label, one.score, (one,)), label, (8, 8))
    example = Example(number=0, source="a&b.png", jpeg=b"\xff\xd8", answer="cat 75%", truth="<i>dog</i>", right=False)
    return Evaluation(
        variant="fp32",
        provider="CPUExecutionProvider",
        dataset="photos",
        images=len(truth),
        skipped={},
        figures=judge.figures(),
        answers=said,
        metric=METRICS[Classification],
        examples=(example,),
        notes=("2 truncated images could not be used",),
    )


EVIL = "<script>alert('x')</script>"


@pytest.fixture
def manifest() -> Manifest:
    made = manifest_of("classification", ("cat", EVIL, "dog"), task="classification", top_k=2)
    fp32 = made.variants[0].model_copy(update={"id": "fp32", "metrics": {"top1": 0.9, "latency_ms": 4.0}})
    half = fp32.model_copy(update={"id": "fp16", "unproven": True, "device_class": "GPU", "metrics": {"top1": 0.9}})
    slow = RejectedVariant(id="int8", precision="int8", reason="not faster than fp32", metrics={"top1": 0.8})
    return made.model_copy(update={"variants": (fp32, half), "rejected": (slow,)})


@pytest.fixture
def page(manifest: Manifest) -> str:
    facts = CardFacts(
        manifest=manifest,
        digest="d" * 64,
        evaluation=evaluation_of(manifest, [0, 0, 1, 2], [0, 2, 1, 2]),
        notes=("head classification",),
        machine="a machine",
    )
    return render_card(facts).decode()


def test_the_card_is_well_formed_and_says_everything(page: str, manifest: Manifest) -> None:
    read = Reader(page)
    for said in (
        manifest.name,
        "published",
        "Unproven: no device of its class was at hand",
        "Rejected: not faster than fp32.",
        "on a machine",
        "4 images of photos",
        "2 truncated images could not be used.",
        "top-1",
        "75.00%",
        "Confusion matrix",
        "macro F1",
        "Head classification.",
        "The speed of fp16 was not measured",
        manifest.variants[0].sha256,
        manifest.golden.sha256,
        manifest.provenance.framework,
        manifest.requires.ort,
        "d" * 64,
    ):
        assert said in read.words, said


def test_it_loads_nothing_and_runs_nothing(page: str) -> None:
    read = Reader(page)
    assert read.all("script") == read.all("link") == read.all("iframe") == []
    assert [image["src"][:23] for image in read.all("img") if image["src"]] == ["data:image/jpeg;base64,"]
    assert "url(" not in page
    assert "@import" not in page
    assert re.findall(r"https?://", page) == []


def test_names_are_text_whatever_they_are(page: str) -> None:
    assert EVIL in Reader(page).words
    assert "<i>dog</i>" in Reader(page).words
    assert "a&b.png" in str(Reader(page).all("img")[0]["alt"])


def test_it_is_accessible(page: str) -> None:
    read = Reader(page)
    assert read.all("html")[0]["lang"] == "en"
    assert "model card" in page[page.index("<title>") : page.index("</title>")]
    assert all(image.get("alt") for image in read.all("img"))
    assert all(cell.get("scope") in {"row", "col"} for cell in read.all("th"))
    assert len(read.all("h1")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_badges_have_enough_contrast(scheme: str) -> None:
    css = files("runtime.page").joinpath("style.css").read_text()
    blocks = dict(zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", css, re.DOTALL), strict=True))
    values = dict(re.findall(r"--([a-z]+): ([^;]+);", blocks["light"])) | dict(
        re.findall(r"--([a-z]+): ([^;]+);", blocks[scheme])
    )

    def color(name: str) -> tuple[int, int, int]:
        value = values[name].lstrip("#")
        digits = value if len(value) == 6 else "".join(2 * digit for digit in value)
        parts = value.split() if " " in value else [str(int(digits[at : at + 2], 16)) for at in (0, 2, 4)]
        red, green, blue = map(int, parts)
        return red, green, blue

    for ground in ("ground", "raised"):
        for ink in ("ink", "soft", "accent", "good", "bad", "open"):
            assert contrast(color(ink), color(ground)) >= 4.5, (ink, ground)  # WCAG 2, level AA


def test_equal_facts_have_equal_cards(manifest: Manifest) -> None:
    facts = CardFacts(manifest=manifest, digest="d" * 64)
    assert render_card(facts) == render_card(replace(facts))


def test_without_labelled_data_the_card_says_so(manifest: Manifest) -> None:
    bare = manifest.variants[0].model_copy(update={"metrics": {}})
    facts = CardFacts(manifest=manifest.model_copy(update={"variants": (bare,), "rejected": ()}), digest="d" * 64)
    words = Reader(render_card(facts).decode()).words
    assert "Accuracy was not measured" in words
    assert "Confusion matrix" not in words


def confusion(classes: int, **more: object) -> Confusion:
    counts = np.diag(np.full(classes, 9))
    for number in range(min(classes, 40)):
        counts[number, (number + 1) % classes] = number + 1
    return Confusion(labels=tuple(f"class {number}" for number in range(classes)), counts=counts, unit="images")


def test_a_few_classes_make_a_matrix_with_every_count() -> None:
    read = Reader(confusion_section(confusion(4)))
    assert len(read.all("th")) == 1 + 4 + 4
    assert [cell["class"] for cell in read.all("td")].count("right") == 4
    assert "labelled" in read.words


def test_a_thousand_classes_make_a_list_of_the_worst_pairs() -> None:
    page = confusion_section(confusion(1000))
    read = Reader(page)
    assert len(read.all("tr")) == 1 + 20
    assert read.words.index("class 39") < read.words.index("class 20")
    assert "20 most frequent of 40 confusions among 1,000 classes" in read.words
    assert len(page) < 10_000


def test_classes_that_never_occur_are_left_out_of_the_matrix() -> None:
    counts = np.zeros((1000, 1000), np.int64)
    counts[3, 3], counts[3, 7] = 5, 1
    found = confusion_section(Confusion(labels=tuple(map(str, range(1000))), counts=counts, unit="images"))
    assert Reader(found).words.split()[-6:] == ["3", "5", "1", "7", "·", "·"]


def test_markup_escapes_what_is_not_markup() -> None:
    assert tag("p", "a < b", tag("b", "&"), title='"') == '<p title="&quot;">a &lt; b<b>&amp;</b></p>'
    assert joined(Markup("<br>"), "<br>") == "<br>&lt;br&gt;"


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (Preprocess(), "as numbers from 0 to 255"),
        (Preprocess(scale=1 / 255), "each times 1/255"),
        (Preprocess(resize=Resize(size=256), crop=(224, 200)), "The middle 200 \u00d7 224 pixels are cut out."),
        (
            Preprocess(mean=(0.5,), std=(0.25,), scale=1 / 255),
            "each becomes (pixel \u00d7 1/255 - mean) / std, mean 0.5, std 0.25.",
        ),
        (
            Preprocess(resize=Resize(mode="letterbox", size=(32, 64), anchor="top-left", antialias=False)),
            "fits into 64 \u00d7 32 pixels (bilinear) and lies at the upper left; the rest is grey 114",
        ),
        (Preprocess(embedded=True), "inside the graph, which takes uint8 pixels"),
        (Preprocess(background=(0, 0, 0)), "on the colour 0, 0, 0"),
        (
            Preprocess(color="L", mean=(0,), std=(1,), resize=Resize(mode="exact", size=(32, 32)), features=Hog()),
            "9 directions, cells of 8\u00d78 pixels, blocks of 3\u00d73 cells",
        ),
    ],
)
def test_preprocessing_is_told_in_words_and_numbers(preprocess: Preprocess, said: str) -> None:
    assert said in " ".join(input_steps(preprocess))


def test_a_published_version_has_its_card_and_keeps_it(tmp_path: Path, manifest: Manifest) -> None:
    store = ModelStore.open(tmp_path / "store")
    draft = Manifest.parse((probe_root() / "manifest.json").read_bytes()).model_copy(update={"name": "probe"})
    maker = card_maker(None, ("how it came",))
    first, second = (publish(store, probe_root(), draft, maker) for _ in range(2))
    for published in (first, second):
        found = card_of(store, published.reference)
        words = Reader(found.html.decode()).words
        assert found.published
        assert f"@{published.version}" in words
        assert published.digest in words
        assert "How it came." in words
    assert card_of(store, "probe").reference == "probe@2"


def test_the_card_is_there_before_the_version_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore.open(tmp_path / "store")
    draft = Manifest.parse((probe_root() / "manifest.json").read_bytes()).model_copy(update={"name": "probe"})

    def no_card(_: Manifest) -> bytes:
        assert store.versions("probe") == []
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        publish(store, probe_root(), draft, no_card)
    assert store.versions("probe") == []


def test_a_version_without_a_card_gets_one_when_it_is_asked_for(tmp_path: Path) -> None:
    store = ModelStore.open(tmp_path / "store")
    draft = Manifest.parse((probe_root() / "manifest.json").read_bytes()).model_copy(update={"name": "probe"})
    published = publish(store, probe_root(), draft)
    made = card_of(store, "probe@1")
    assert not made.published
    assert hashlib.sha256(store.manifest_bytes("probe", 1)).hexdigest() in made.html.decode()
    assert published.reference == made.reference
