"""Human judgement: the numbers against closed forms and other computations, the sheet against those who would peek."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from itertools import combinations
from math import comb, log, sqrt

import numpy as np
import pytest
from PIL import Image

import tinygen as tg
from tinygen import metrics, sheet

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# ---- win rates


def test_wilson_against_published_and_closed_forms():
    assert metrics.wilson_interval(152, 500) == pytest.approx((0.2653, 0.3457), abs=5e-5)
    for wins, n in ((0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (3.5, 9)):
        low, high = metrics.wilson_interval(wins, n)
        z = 1.959963984540054
        for end in {low, high} - {0.0, 1.0}:  # the ends solve (p̂ - p)² = z² p (1 - p) / n
            assert (wins / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-9)
        assert 0 <= low <= wins / n <= high <= 1
    assert metrics.wilson_interval(0, 20)[0] == 0 and metrics.wilson_interval(20, 20)[1] == 1
    assert metrics.wilson_interval(5, 10, level=0.5) == pytest.approx((0.3956, 0.6044), abs=1e-4)


def test_wilson_covers_as_it_says():
    n, p = 50, 0.3
    share = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)
                if metrics.wilson_interval(k, n)[0] <= p <= metrics.wilson_interval(k, n)[1])  # fmt: skip
    assert 0.93 < share < 0.97


def test_win_rate():
    r = metrics.win_rate(6, 2, 2)
    assert (r.rate, r.n, r.ties) == (0.7, 10, 2) and r.interval == metrics.wilson_interval(7, 10)
    assert str(r) == "70.0 % of 10, 2 ties (95 %: 39.7–89.2 %)"
    for bad in ((0, 0), (-1, 3)):
        with pytest.raises(tg.ConfigError):
            metrics.win_rate(*bad)


# ---- Bradley–Terry


def test_two_contestants_have_a_closed_form():
    found = metrics.bradley_terry([[0, 30], [10, 0]], ["a", "b"])
    assert found.scores == pytest.approx([log(3) / 2, -log(3) / 2], abs=1e-10)
    difference = sqrt(found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1])
    assert difference == pytest.approx(sqrt(1 / 30 + 1 / 10), rel=1e-8)  # of a log odds
    assert found.probability(0, 1) == pytest.approx(0.75) and found.order == [0, 1] and not found.notes
    assert found.log_likelihood == pytest.approx(30 * log(0.75) + 10 * log(0.25))


def tournament(k, n, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=k)
    w = np.zeros((k, k))
    for i, j in combinations(range(k), 2):
        w[i, j] = rng.binomial(n, 1 / (1 + np.exp(scores[j] - scores[i])))
        w[j, i] = n - w[i, j]
    return w


@pytest.mark.parametrize("k, n, seed", [(3, 15, 0), (4, 40, 1), (7, 12, 2)])
def test_against_newton_on_the_logistic_likelihood(k, n, seed):
    """The same model as a logistic regression, by another route: SciPy's BFGS, and a Hessian."""
    from scipy.optimize import minimize

    w = tournament(k, n, seed)
    w[0, 1] += 0.5
    w[1, 0] += 0.5

    def cost(rest):
        s = np.concatenate([[0], rest])
        return (w * np.logaddexp(0, s[None] - s[:, None])).sum()

    best = minimize(cost, np.zeros(k - 1), method="BFGS", options={"gtol": 1e-10})
    s = np.concatenate([[0], best.x])
    found = metrics.bradley_terry(w)
    assert found.scores == pytest.approx(s - s.mean(), abs=1e-6)
    p = 1 / (1 + np.exp(s[None] - s[:, None]))
    weight = (w + w.T) * p * (1 - p)
    hessian = (np.diag(weight.sum(1)) - weight)[1:, 1:]
    covariance = np.zeros((k, k))
    covariance[1:, 1:] = np.linalg.inv(hessian)  # of scores with the first held at 0
    centre = np.eye(k) - 1 / k
    assert found.covariance == pytest.approx(centre @ covariance @ centre, rel=1e-5, abs=1e-9)
    assert found.standard_errors == pytest.approx(np.sqrt(np.diagonal(centre @ covariance @ centre)), rel=1e-5)


def test_against_choix():
    choix = pytest.importorskip("choix")
    w = tournament(5, 20, 3)
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(w[i, j]))]
    assert metrics.bradley_terry(w).scores == pytest.approx(choix.opt_pairwise(5, data, tol=1e-12), abs=1e-5)


def test_the_errors_are_those_of_repetition():
    true, n, scores = np.array([0.8, 0.0, -0.8]), 200, []
    rng = np.random.default_rng(0)
    for _ in range(300):
        w = np.zeros((3, 3))
        for i, j in combinations(range(3), 2):
            w[i, j] = rng.binomial(n, 1 / (1 + np.exp(true[j] - true[i])))
            w[j, i] = n - w[i, j]
        found = metrics.bradley_terry(w)
        scores.append(found.scores)
    assert np.std(scores, axis=0) == pytest.approx(found.standard_errors, rel=0.15)
    assert np.mean(scores, axis=0) == pytest.approx(true, abs=0.02)


def test_whoever_never_loses_has_no_finite_score_and_the_report_says_so():
    found = metrics.bradley_terry([[0, 5, 5, 5], [0, 0, 2, 4], [0, 3, 0, 4], [0, 0, 0, 0]], list("abcd"))
    assert found.scores == pytest.approx([np.inf, -log(1.5) / 2, log(1.5) / 2, -np.inf])
    assert np.isnan(found.standard_errors[[0, 3]]).all() and found.order == [0, 2, 1, 3]
    assert found.notes == (
        "a never lost against b, c, directly or by way of others: no finite score is the likeliest, so +inf is "
        "reported; more answers would bound it.",
        "d never won against b, c, directly or by way of others: no finite score is the likeliest, so -inf is "
        "reported; more answers would bound it.",
    )
    assert found.probability(0, 3) == 1 and found.probability(3, 1) == 0 and found.log_likelihood > -np.inf
    cycle = metrics.bradley_terry([[0, 3, 0], [0, 0, 3], [3, 0, 0]])  # each never loses to one, and none stands apart
    assert cycle.scores == pytest.approx([0, 0, 0], abs=1e-9) and not cycle.notes
    fork = metrics.bradley_terry([[0, 0, 2], [0, 0, 2], [0, 0, 0]])  # two beat the third and never met
    assert np.isnan(fork.scores).sum() + np.isinf(fork.scores).sum() == 2 and fork.notes


def test_what_cannot_be_scored():
    with pytest.raises(tg.DataError, match="2 was never compared with 0"):
        metrics.bradley_terry([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    with pytest.raises(tg.ConfigError, match="zeros on the diagonal"):
        metrics.bradley_terry([[1, 1], [1, 0]])
    with pytest.raises(tg.ShapeError, match="K,K"):
        metrics.bradley_terry([[0, 1, 2], [1, 0, 2]])
    with pytest.raises(tg.ShapeError, match="3 names for 2"):
        metrics.bradley_terry([[0, 1], [1, 0]], "abc")
    with pytest.raises(tg.NonFiniteError):
        metrics.bradley_terry([[0, np.nan], [1, 0]])


# ---- the sheet


def pictures(n, seed, channels=1, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


@pytest.fixture
def three():
    return [("real", pictures(40, 0)), ("gan", pictures(30, 1)), ("vae", pictures(30, 2, 3))]


def answered(made, choices, ms=700):
    """The file that the page saves."""
    content = {"tinygen": sheet.ANSWERS, "version": 1, "sheet": made.key["sheet"], "began": "2026-01-01T00:00:00.000Z",
               "ended": "2026-01-01T00:01:00.000Z",
               "answers": [{"pair": i, "choice": c, "ms": ms} for i, c in enumerate(choices)]}  # fmt: skip
    return {**content, "checksum": sheet.checksum(content)}


def table_of(page):
    return json.loads(re.search(r"const SHEET=(.*?);\n", page)[1].replace("<\\/", "</"))


def test_the_page_shows_what_the_key_says_and_tells_nothing(three):
    made = sheet.make(three, pairs=31, seed=7)
    table = table_of(made.page)
    colour = dict(enumerate(np.repeat(x, 3 // x.shape[3], 3) for _, x in three))
    assert len(table["pairs"]) == len(made.key["pairs"]) == 31
    for (a, b), row in zip(table["pairs"], made.key["pairs"]):
        for place, side in ((a, "left"), (b, "right")):
            raw = base64.b64decode(table["pictures"][place].removeprefix("data:image/png;base64,"))
            with Image.open(io.BytesIO(raw)) as image:
                assert np.array_equal(np.asarray(image), colour[row[side]][row[f"{side}_image"]]) and not image.info
    bare = re.sub(r"data:image/png;base64,[^\"]*", "", made.page)
    assert not re.search(r"\b(gan|vae|seed)\b", bare) and not re.search(r"(src|href)=['\"]?http|https?://", bare)
    assert set(table) == {"sheet", "question", "ties", "pause", "pairs", "pictures"}
    assert table["question"] == "Which picture is real?"
    # the order of the pictures in the page says nothing of whose they are
    owners = {}
    for (a, b), row in zip(table["pairs"], made.key["pairs"]):
        owners |= {a: row["left"], b: row["right"]}
    runs = 1 + sum(owners[i] != owners[i + 1] for i in range(len(owners) - 1))
    assert runs > len(owners) / 3


def test_meetings_and_sides_are_balanced_and_follow_the_seed(three):
    made = sheet.make(three, pairs=60, seed=3)
    rows = made.key["pairs"]
    for i, j in combinations(range(3), 2):
        met = [r for r in rows if {r["left"], r["right"]} == {i, j}]
        assert len(met) == 20 and sum(r["left"] == i for r in met) == 10
    used = [(r[s], r[f"{s}_image"]) for r in rows for s in ("left", "right") if r[s] == 0]
    assert len(set(used)) == len(used)  # 40 of 40: nobody is shown twice before all were
    again = sheet.make(three, pairs=60, seed=3)
    assert (again.page, again.key) == (made.page, made.key)
    other = sheet.make(three, pairs=60, seed=4)
    assert [r["left"] for r in other.key["pairs"]] != [r["left"] for r in rows]
    assert other.key["sheet"] != made.key["sheet"]
    assert len(sheet.make(three[:2], pairs=90, seed=0).key["pairs"]) == 90  # more than there are pictures


def test_answers_are_read_back(three):
    made = sheet.make(three, pairs=60, seed=3)
    worth = {0: 2, 1: 1, 2: 1}

    def choose(row):
        a, b = worth[row["left"]], worth[row["right"]]
        return "tie" if a == b else "left" if a > b else "right"

    first = answered(made, [choose(r) for r in made.key["pairs"]])
    second = answered(made, ["left"] * 30, ms=400)
    v = sheet.judge([("one", first), ("two", second)], made.key)
    assert (v.answered, v.asked, v.raters, v.left.ties) == (90, 120, 2, 20)
    lefts = [sum(r["left"] == a and r["right"] == b for r in made.key["pairs"][:30]) for a, b in ((0, 1), (1, 0))]
    assert v.pairs["real", "gan"] == metrics.win_rate(20 + lefts[0], lefts[1])
    assert v.scores.names == ("real", "gan", "vae") and v.scores.order[0] == 0
    assert v.lines[0] == "90 of 120 pairs answered in 2 files of answers, 0.7 s each (median)"
    assert any(line.startswith("real was chosen rather than gan in ") for line in v.lines)
    assert v.lines[-1].endswith("the side itself seems to have decided")
    table = json.loads(json.dumps(v.as_dict(), allow_nan=False))
    assert table["pairs"][0]["first"] == "real" and len(table["bradley_terry"]["scores"]) == 3
    two = sheet.make(three[:2], pairs=4)
    assert sheet.judge([("a", answered(two, ["left"] * 4))], two.key).scores is None


def test_altered_and_foreign_files_get_a_sentence(three, tmp_path):
    made, other = sheet.make(three, pairs=9, seed=1), sheet.make(three, pairs=9, seed=2)
    good = answered(made, ["left", "right", "tie"] * 3)

    def refused(text, answers=good, key=made.key):
        with pytest.raises(tg.DataError) as caught:
            sheet.judge([("a.json", answers)], key, "s.key.json")
        assert text in str(caught.value) and "\n" not in str(caught.value)

    refused("a.json answers another sheet", answered(other, ["left"] * 9))
    changed = json.loads(json.dumps(good))
    changed["answers"][0]["choice"] = "right"
    refused("a.json was altered after the page saved it", changed)
    refused("was altered", {**good, "answers": good["answers"] * 2})
    refused("was altered", {**good, "answers": [{"pair": 0, "choice": "both", "ms": 3}]})
    refused("was altered", {**good, "checksum": None})
    refused("a.json holds no answers", made.key)
    refused("s.key.json is not the key of a pair sheet", good, good)
    swapped = json.loads(json.dumps(made.key))
    swapped["pairs"][0]["left"] = 1 - swapped["pairs"][0]["left"]
    refused("s.key.json was altered", good, swapped)
    refused("no pair is answered", answered(made, []))
    with pytest.raises(tg.DataError, match="b holds the same answers as a"):
        sheet.judge([("a", good), ("b", good)], made.key)
    for content, text in (("{", "is not whole JSON"), ("[]", "is neither"), ('{"tinygen": "x"}', "is neither")):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(tg.DataError, match=text):
            sheet.read(tmp_path / "f.json")
    with pytest.raises(tg.DataError, match="cannot read"):
        sheet.read(tmp_path / "none.json")


def test_what_makes_no_sheet(three):
    for contestants, pairs, error, text in (
        (three[:1], 5, tg.ConfigError, "at least two"),
        ([three[0], three[0]], 5, tg.ConfigError, "different names"),
        (three, 2, tg.ConfigError, "meet in 3 ways"),
        ([three[0], ("big", pictures(3, 0, 1, 9))], 5, tg.DataError, "would tell them apart"),
        ([three[0], ("none", pictures(0, 0))], 5, tg.DataError, "no picture"),
    ):
        with pytest.raises(error, match=text):
            sheet.make(contestants, pairs=pairs)


def test_a_question_cannot_leave_its_string(three):
    page = sheet.make(three[:2], pairs=2, question="</script><b>'\"&?").page
    assert "</script><b>" not in page.replace("&lt;", "<<") and table_of(page)["question"] == "</script><b>'\"&?"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_in_a_browser(three, tmp_path):
    """Keys and clicks are answers, backspace takes one back, and what the page saves is what is read."""
    made = sheet.make(three, pairs=9, seed=1)
    keys = ("ArrowLeft", "ArrowRight", "ArrowRight", "Backspace", " ")
    act = "".join(f"dispatchEvent(new KeyboardEvent('keydown', {{key: {k!r}}}));" for k in keys)
    # a textarea's value is not part of the text that is dumped
    act += "$('right').click(); $('stop').click(); $('question').textContent = $('text').value"
    file = tmp_path / "sheet.html"
    file.write_text(made.page.replace("</body>", f"<script>SHEET.pause = 0; {act}</script></body>"))
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user",
                           "--dump-dom", f"file://{file}"], capture_output=True, text=True, timeout=60)  # fmt: skip
    assert "4 of 9 pairs are answered" in done.stdout, done.stderr[-2000:]
    saved = re.search(r'<h1 id="question">(.*?)</h1>', done.stdout, re.S)[1]
    (tmp_path / "answers.json").write_text(html.unescape(saved))
    content = sheet.read(tmp_path / "answers.json")
    assert [a["choice"] for a in content["answers"]] == ["left", "right", "tie", "right"]
    assert sheet.judge([("answers.json", content)], made.key).answered == 4
