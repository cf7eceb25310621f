"""Scores of a run, a folder of pictures or an .npz: by metrics chosen by name, with a report card of how each was made.

The card is one table that JSON holds; its keys stay as they are while `card` is 1:

    card tinygen versions    the version of this format, of tinygen, and of what it computed with
    time seconds             when it was made (UTC) and how long that took
    subject against train    what is judged, what it is judged against, what its generator learned from: name, kind,
                             n, size [H, W, C], digest of the images, run (model, data, step, seed), notes
    against_name             a name of `against`, empty without
    seed n                   of the samples, and how many
    scores                   metric -> a list, one for each number and extractor: metric, label, value, better, interval
                             (95 %), deviation, floor (mean, sd, n, splits, seed, scaled), ratio, ratio_error, extractor
                             (name, digest, dims), resize, dtype, route, n_real, n_fake, seed, notes, details
    notes lines              what was done to the pictures; the scores as text
    run model data step      of a run
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from . import checkpoint, config, data, metrics, run, subject
from .errors import ConfigError, DataError, DtypeError, ShapeError
from .metrics import battery, card, saved, witness
from .metrics.battery import Score, Sets, plain
from .metrics.networks import Networks
from .metrics.resize import check_resizer
from .rng import Rng
from .run import Run
from .subject import Bar, Subject
from .tape import no_grad

# name -> what the number means, for people who read a report
METRICS = {
    "frechet": "Fréchet distance between the features of samples and of held-out images, divided by the distance "
    "between two sets of real images of the same size: 1 is as good as real, and smaller is better. The label names "
    "the extractor; numbers with different labels, or different N, do not compare.",
    "fid": "The Fréchet distance by the published Inception weights, which --weights names. It is called FID only "
    "with the published file, resize and enough images.",
    "kid": "Kernel distance (cubic): unbiased, 0 for equal distributions, and it may fall below. Smaller is better.",
    "cmmd": "Gaussian kernel distance of features of length 1, times 1000. Smaller is better.",
    "precision_recall": "Precision: the share of samples that lie where real images do. Recall: the share of real "
    "images that lie where samples do.",
    "density_coverage": "Density: how many real neighbourhoods hold a sample, about 1 if as good as real. Coverage: "
    "the share of real images with a sample nearby.",
    "inception": "Inception score: are the classes that Inception sees sharp in each sample and many in all. Larger is "
    "better; it knows no real images. Needs --weights.",
    "vendi": "How many different samples there are, in effect. It grows with N, and noise scores high.",
    "memorisation": "How far samples lie from their nearest training image, relative to held-out images: about 1 is "
    "as new as new images are; well below 1 are copies.",
    "authpct": "The percentage of samples that are farther from their nearest training image than that is from its own "
    "neighbour. Lower means more copies.",
    "labels": "Which digit each sample is, by a judge fitted on held-out images: a model that draws all digits alike "
    "has about 10 % of each.",
    "attributes": "Drawings of the set shapes: how many are valid, and how many of its captions they show, by its "
    "exact parser; where captions are known, how well each is followed.",
    "psnr": "Peak signal-to-noise ratio of pairs of the same name, in dB. Larger is better.",
    "ssim": "Structural similarity of pairs of the same name, at most 1. Larger is better.",
    "lpips": "Distance of pairs of the same name by the layers of a network, whose file --weights names. Smaller is "
             "better.",
    "model": "What the model computes of itself, such as a bound on the likelihood in bits per dimension (smaller is "
    "better).",
}
PAIRED = ("psnr", "ssim", "lpips")
COMPARING = ("frechet", "fid", "kid", "cmmd", "precision_recall", "density_coverage", *PAIRED)
SSIM_SIDE = 11  # pixels, of its window
LIMIT = 1000  # samples, and held-out images, unless more are asked for
REAL_LIMIT = 5000  # training images that a floor or a nearest neighbour is taken from


def no_bar(what: str, total: int) -> Any:
    """A progress bar that shows nothing."""
    return nullcontext(lambda n: None)


@dataclass
class Evaluation:
    """The card, and the images and features that its picture is drawn from."""

    result: dict[str, Any]
    sets: Sets

    def picture(self) -> np.ndarray:
        """The card as a picture, uint8 H,W,3."""
        s, r = self.sets, self.result
        name = "training image" if s.train is not None else f"image of {r['against_name']}"
        references = s.train if s.train is not None else s.real
        if s.fake is not None and references is not None and references.shape[1:3] != s.fake.shape[1:3]:
            references = None
        scatters = [card.plane(e.name, s.features(e, "real"), s.features(e, "fake"))
                    for e in s.extractors[:2] if s.real is not None and s.fake is not None]  # fmt: skip
        about = [f"{r['n']} samples, seed {r['seed']}", f"against {r['against_name']}" if r["against"] else "",
                 f"tinygen {r['tinygen']}", r["time"][:16].replace("T", " ") + " UTC"]  # fmt: skip
        return card.draw(f"Report card of {r['subject']['name']}", " · ".join(filter(None, about)), r["lines"], s.fake,
                         references, reference_name=name, real=s.real, scatters=scatters)  # fmt: skip

    def statistics(self) -> list[saved.Saved]:
        """Statistics of the subject's images in every extractor, with their floors, to be saved."""
        s, out = self.sets, []
        own = Sets(None, s.fake, extractors=s.extractors, seed=s.seed, bar=s.bar)
        if s.fake is None:
            raise ConfigError("these are statistics already; there are no images to take others of.")
        more = [s.inception] if s.inception is not None and s.inception not in s.extractors else []
        for e in [*s.extractors, *more]:
            x = s.features(e, "fake")
            own._features[e.digest, "real"] = x
            floor = battery.floor_of(own, e, len(x) // 2)
            moments = metrics.FeatureStatistics(x.shape[1], s.identity(e, x.shape[1])).add(x)
            out.append(saved.Saved(moments, floor[0] if floor else None))
        return out


def evaluate(
    folder: Run,
    chosen: Iterable[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The card of a run, by the metrics that apply unless some are chosen; also written to its scores.json.

    n: samples to draw, by default as many as there are held-out images, at most 1000. Raises ConfigError for an unknown
    metric or one that this run cannot have.
    """
    return judge(str(folder.path), chosen=chosen, n=n, seed=seed, device=device, say=say).result


def judge(
    what: str,
    *,
    against: str | None = None,
    train: str | None = None,
    chosen: Iterable[str] | None = None,
    extractors: Sequence[str] = (),
    weights: Sequence[str] = (),
    resize: str = "tf1",
    n: int | None = None,
    seed: int = 0,
    count: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    bar: Bar = no_bar,
) -> Evaluation:
    """Judge what `what` names (subject.py says what can be named); of a run, also write scores.json.

    against, train: real images that the generator has not seen, and those that it has; of a run, its own by default.
    extractors: names, "inception" with its weights among them; a pair of embedded ones by default. weights: files of
    Inception (fid, inception) or of a trunk (lpips), told apart by what they hold. resize: the path to Inception. n:
    samples to draw, or at most so many images of either set. count: of statistics that do not say their n.
    Raises UserError and its kinds.
    """
    began = time.perf_counter()
    wanted = list(dict.fromkeys(name.replace("-", "_") for name in chosen)) if chosen else None
    for name in wanted or ():
        if name not in METRICS and name != "all":
            raise ConfigError(config.unknown("metric", name, [*METRICS, "all"]))
    nets = Networks(weights, check_resizer(resize))
    chosen_extractors = [nets.extractor(name) for name in dict.fromkeys(extractors)]
    model, heldout, learned, settings = None, None, None, None
    folder = Run(what)
    if folder.exists:
        settings = folder.settings()
        learned, heldout = run.load_data(settings, "train"), run.load_data(settings, "test")
        if wanted and "all" not in wanted:
            _refuse_for_run(folder, settings, wanted, learned)
        if len(heldout) < 2 and not against:
            raise ConfigError(f"{settings.data} has {len(heldout)} held-out images; scores need at least two.")
        fake, model = subject.of_run(folder, bar, n or min(max(len(heldout), 2), LIMIT), seed, device)
    else:
        fake = subject.load(what, bar, n=n, seed=seed, count=count)
    real = _against(against, heldout, settings, bar, n, seed, count, device)
    learnt = _learnt(train, learned, settings, bar)
    sets = _sets(fake, real, learnt, floor_train=not (settings and against), bar=bar)
    sets.inception, sets.extractors = nets.inception, chosen_extractors
    can = _applicable(fake, real, learnt, model, nets)
    if wanted is None:
        wanted = _usual(can, fake, real)
    elif "all" in wanted:
        wanted = can
    if not sets.extractors:
        sets.extractors = _by_label(fake, real, nets)
    if not sets.extractors and sets.fake is not None and (set(wanted) & set(battery.BY_EXTRACTOR)):
        sets.extractors = battery.default_pair(sets.fake.shape[1:])
    _check(sets, fake, real, wanted)
    scores: dict[str, list[Score]] = {}
    with bar("scores", len(wanted)) as tick:
        for name in wanted:
            try:
                scores[name] = _measure(name, sets, fake, real, learnt, nets, model, heldout, seed, say)
            except (ShapeError, DtypeError) as error:  # the images came from outside, so this is about them
                raise DataError(f"{name}: {error}") from error
            tick(1)
    lines = [s.line for name in wanted for s in scores[name]]
    notes = [f"{s.name}: {note}" for s in (fake, real, learnt) if s is not None for note in s.notes]
    notes += dict.fromkeys(t for name in wanted for s in scores[name] for t in s.notes if t.startswith("N differs"))
    result: dict[str, Any] = {
        "card": 1, "tinygen": checkpoint.versions()["tinygen"], "versions": checkpoint.versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 3),
        "subject": plain(fake.facts), "against": plain(real.facts) if real else None,
        "train": plain(learnt.facts) if learnt else None, "seed": seed, "n": fake.n, **(fake.run or {}),
        "against_name": real.name if real else "", "scores": {k: [s.as_dict() for s in v] for k, v in scores.items()},
        "notes": notes, "lines": lines,
    }  # fmt: skip
    if settings is not None:
        result["run"], result["seed"] = what, seed
        checkpoint.write_text(folder.scores, json.dumps(result, indent=1) + "\n")
    return Evaluation(result, sets)


# ---- what is compared


def _against(against, heldout, settings, bar, n, seed, count, device) -> Subject | None:
    if against is not None:
        return subject.load(against, bar, n=n, seed=seed, device=device, count=count)
    if heldout is None:
        return None
    found = subject.of_data(f"held-out images of {settings.data}", heldout, _embedded(settings.data))
    return _limited(found, 1)


def _learnt(train, learned, settings, bar) -> Subject | None:
    if train is not None:
        return subject.load(train, bar)
    if learned is None:
        return None
    return _limited(subject.of_data(f"training images of {settings.data}", learned, _embedded(settings.data)), 0)


def _embedded(name: str) -> str:
    return name if name in data.names() else ""


def _limited(found: Subject, stream: int) -> Subject:
    """At most REAL_LIMIT of the images, and the labels that go with them."""
    assert found.images is not None
    if len(found.images) <= REAL_LIMIT:
        return found
    pick = Rng(0).permutation("evaluate", stream, len(found.images)).numpy()[:REAL_LIMIT]
    found.images, found.labels = found.images[pick], None if found.labels is None else found.labels[pick]
    found.captions = None if found.captions is None else [found.captions[i] for i in pick]
    return found


def _sets(fake: Subject, real: Subject | None, learnt: Subject | None, floor_train: bool, bar: Bar) -> Sets:
    images = [s.images if s is not None else None for s in (fake, real, learnt)]
    channels = max((x.shape[3] for x in images if x is not None), default=1)
    for i, (s, x) in enumerate(zip((fake, real, learnt), images)):
        if s is not None and x is not None and x.shape[3] < channels:
            images[i] = np.repeat(x, channels, axis=3)
            s.notes.append("grey, repeated to three channels, as the other set has colour")
    known = [() if s is None else s.statistics for s in (fake, real)]
    return Sets(images[0], images[1], images[2], known[0], known[1], floor_train=floor_train, seed=0, bar=bar)


def _check(sets: Sets, fake: Subject, real: Subject | None, wanted: Sequence[str]) -> None:
    """What no metric could work with. Raises ConfigError, DataError."""
    two = [name for name in wanted if name in COMPARING]
    if two and real is None:
        raise ConfigError(f"the metric {two[0]!r} compares two sets; name the other one with --against.")
    least = 1 if wanted and set(wanted) <= set(PAIRED) else 2
    for s in (fake, real):
        if s is not None and s.n < least:
            raise DataError(f"{s.name} holds {s.n} image{'s' * (s.n != 1)}; a score of a set needs at least {least}.")
    if sets.fake is None or sets.real is None or sets.fake.shape[1:3] == sets.real.shape[1:3]:
        return
    native = [e.name for e in sets.extractors if not hasattr(e, "path")] if set(two) - {"fid"} else []
    if native or "memorisation" in wanted:
        sizes = [f"{x.shape[2]}×{x.shape[1]}" for x in (sets.fake, sets.real)]
        raise DataError(f"{fake.name} has pictures of {sizes[0]} pixels and {real.name} of {sizes[1]}; "  # type: ignore
                        f"{native[0] if native else 'memorisation'} takes them as they are, so bring both to one size.")


def _by_label(fake: Subject, real: Subject | None, nets: Networks) -> list[metrics.Extractor]:
    """The extractors that saved statistics were taken in, as far as they are at hand."""
    held = fake.statistics or (real.statistics if real is not None else [])
    labels = [s.statistics.label for s in held]
    known = [metrics.extractor(t.partition("/")[0]) for t in labels if t.partition("/")[0] in metrics.extractors()]
    fits = nets.inception is not None and any(t == "" or t.endswith(nets.inception.digest) for t in labels)
    return [*known, *([nets.inception] if fits else [])]


# ---- which metrics apply, and what they say


def _refuse_for_run(folder: Run, settings: run.Settings, wanted: Sequence[str], learned: data.Dataset) -> None:
    from . import models

    for name in wanted:
        why = ""
        if name == "model" and not hasattr(models.load(settings.model), "evaluate"):
            why = "the model has no evaluate()"
        elif name == "labels" and settings.data != "digits":
            why = f"it is for digits, and this is {settings.data}"
        elif name == "attributes" and settings.data != "shapes":
            why = f"it is for shapes, and this is {settings.data}"
        elif name in PAIRED:
            why = "it compares pairs of pictures, and samples have no partners"
        if why:
            raise ConfigError(f"the metric {name!r} does not apply to {folder}: {why}.")


def _applicable(fake: Subject, real: Subject | None, learnt: Subject | None, model: Any, nets: Networks) -> list[str]:
    """Every metric that can be taken, in the order of METRICS."""
    images = fake.images is not None
    both = images and real is not None and real.images is not None
    sets = {fake.dataset, real.dataset if real else ""}
    published = nets.inception is not None and nets.inception.published
    drawn = images and fake.images.shape[1:] == (32, 32, 3) and "shapes" in sets  # type: ignore[union-attr]
    can = {
        "frechet": real is not None, "fid": real is not None and published, "kid": both, "cmmd": both,
        "precision_recall": both, "density_coverage": both, "inception": images and nets.inception is not None,
        "vendi": images, "memorisation": both and learnt is not None, "authpct": images and learnt is not None,
        "labels": both and "digits" in sets and real is not None and real.labels is not None, "attributes": drawn,
        "model": hasattr(model, "evaluate"),
    }  # fmt: skip
    if both and model is None:
        try:
            subject.pair_by_name(fake, real)  # type: ignore[arg-type]
            large = fake.images is not None and min(fake.images.shape[1:3]) >= SSIM_SIDE
            can |= {"psnr": True, "ssim": large, "lpips": nets.lpips is not None}
        except (ConfigError, DataError):
            pass
    return [name for name in METRICS if can.get(name)]


def _usual(can: Sequence[str], fake: Subject, real: Subject | None) -> list[str]:
    """What is measured when nothing was chosen."""
    if fake.kind == "run":
        names: tuple[str, ...] = ("frechet", "fid", "labels", "attributes", "memorisation", "model")
    elif real is None:
        names = ("inception", "vendi")
    else:
        names = ("frechet", "fid", "kid", "precision_recall", "density_coverage", "labels", "attributes")
        names += ("memorisation",)
    found = [name for name in names if name in can]
    if not found:
        raise ConfigError(f"{fake.name} holds statistics alone; name what they are compared with by --against.")
    return found


def _measure(name, sets, fake, real, learnt, nets, model, heldout, seed, say) -> list[Score]:
    if name in PAIRED:
        return [witness.pairs(name, *subject.pair_by_name(fake, real), nets.lpips, sets.bar)]
    if name == "labels":
        known = real is not None and real.dataset == "digits"
        labelled = learnt if learnt is not None and learnt.labels is not None else None
        return [witness.digits(sets, real.labels if known else None, labelled and labelled.labels, fake.labels)]
    if name == "attributes":
        return witness.drawings(sets, fake.captions)
    if name == "model":
        return _own(fake, model, heldout, seed, say)
    scores = battery.measure(name, sets)
    if name == "memorisation":
        m, noun = scores[0].details, "digit" if fake.dataset == "digits" else "image"
        scores[0].sentence = (f"nearest training {noun}: {m['ratio']:.2f} times as far as from held-out {noun}s (95 %: "
                              f"{m['interval'][0]:.2f}-{m['interval'][1]:.2f}; N={m['n_samples']}/{m['n_heldout']})")
    return scores


def _own(fake: Subject, model: Any, heldout: Any, seed: int, say: Callable[[str], None]) -> list[Score]:
    if model is None or not hasattr(model, "evaluate"):
        raise ConfigError(f"the metric 'model' does not apply to {fake.name}: only a run has a model to ask.")
    say("asking the model for its own numbers (other --metric flags leave this out)")
    with no_grad():
        own = {k: plain(v) for k, v in model.evaluate(heldout, Rng(run.sample_stream(seed).key("own", 0))).items()}
    out = []
    for k, v in own.items():
        value = v if isinstance(v, (int, float)) else float("nan")
        text = f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}"
        facts: dict[str, Any] = {"seed": seed, "dtype": "the model's own", "details": {"value": v}}
        out.append(Score("model", k, value, "", len(heldout), 0, sentence=text, **facts))
    return out
