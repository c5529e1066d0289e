"""Every number in every table of the report, computed again by plain loops over the saved results."""

from __future__ import annotations

import json
import math

import pytest

from pyg_ckd.files import write_json
from pyg_ckd.report import report as module
from pyg_ckd.report import write_report
from tests.report import many
from tests.report.page import Page

DASH = "–"


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr(module, "_shown", lambda plot, path: "")


BASELINES = {"popularity": "Popularity", "item-knn": "Item-kNN", "ease": "EASE", "lightgcn": "LightGCN"}


def text(value, digits=4, sign=False):
    if value is None or math.isnan(value):
        return DASH
    out = ("%+.*f" if sign else "%.*f") % (digits, value)
    if set(out) <= set("+-0."):
        out = out.replace("-", "+" if sign else "")
    return out.replace("-", "−")


def share(value, digits=0, sign=False):
    return DASH if math.isnan(value) else text(100 * value, digits, sign) + " %"


def p(value):
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else format(value, ".3f" if value < 0.1 else ".2f")


def line(*parts):
    return " ".join(part for part in parts if part)


class Saved:
    """The saved results, asked by loops."""

    def __init__(self, results):
        self.results, self.runs = results, results["runs"]
        self.metric = results["monitor"]
        self.contenders = [entry["name"] for entry in results["contenders"]]
        self.modalities = list(results["data"]["modalities"])
        self.names = [*results["baselines"], *("teacher:" + m for m in self.modalities), *self.contenders]

    def values(self, name, metric, *path):
        found = []
        for run in self.runs:
            if run["name"] == name:
                place = run
                for key in path or ("test",):
                    place = place[key]
                found.append(place[metric])
        return [value for value in found if value is not None]

    def mean(self, name, metric, *path):
        values = self.values(name, metric, *path)
        return sum(values) / len(values) if values else math.nan

    def spread(self, name, metric, mark=True):
        values = self.values(name, metric)
        mean = sum(values) / len(values)
        marks = ""
        for over, sign in (("users", "*"), ("seeds", "†")):
            test = self.test(name, "plain", metric, over)
            marks += sign if mark and test is not None and test["p_holm"] < 0.05 else ""
        if len(values) == 1:
            return line(text(mean), marks)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return line(text(mean), marks, f"± {text(deviation)}")

    def test(self, a, b, metric, over):
        for test in self.results["comparisons"]:
            if (test["a"], test["b"], test["metric"], test["over"]) == (a, b, metric, over):
                return test
        return None

    def title(self, name):
        if name.startswith("teacher:"):
            return self.named(name, "Teacher: " + name[8:])
        return self.named(name, BASELINES.get(name, name))

    def named(self, name, title):
        seeds = [run for run in self.runs if run["name"] == name]
        late = [run for run in seeds if run["converged"] is False]
        state = [f"not converged ({len(late)} of {len(seeds)})" if len(seeds) > 1 else "not converged"] if late else []
        return line(title, "winner" if name == self.results["winner"]["name"] else "", *state)


def winners(saved):
    best_base, best = None, -1.0
    for name in saved.results["baselines"]:
        if saved.mean(name, saved.metric, "val") > best:
            best_base, best = name, saved.mean(name, saved.metric, "val")
    rows = []
    for name in saved.contenders:
        row = [saved.title(name)]
        row += [text(saved.mean(name, saved.metric, part)) for part in ("val", "test")]
        for other in ("plain", best_base):
            difference = saved.mean(name, saved.metric) - saved.mean(other, saved.metric)
            test = saved.test(name, other, saved.metric, "users")
            if test is None:
                row.append(DASH)
            else:
                relative = difference / saved.mean(other, saved.metric)
                ends = f"[{text(test['low'], sign=True)}, {text(test['high'], sign=True)}]"
                row.append(line(text(difference, sign=True), share(relative, 1, True), ends))
            for over in ("users", "seeds"):
                if any(saved.test(c, other, saved.metric, over) for c in saved.contenders):
                    found = saved.test(name, other, saved.metric, over)
                    row.append(p(found["p_holm"] if found else None))
        rows.append(row)
    return rows


def metrics(saved, names):
    groups = [["Baselines"], *([saved.title(n)] for n in saved.results["baselines"])]
    groups += [["Teachers"], *([saved.title("teacher:" + m)] for m in saved.modalities)]
    groups += [["Contenders"], *([saved.title(n)] for n in saved.contenders)]
    order = iter(saved.names)
    for row in groups:
        if row[0] not in ("Baselines", "Teachers", "Contenders"):
            name = next(order)
            row += [saved.spread(name, metric) for metric in names]
    return groups


def compared(saved, a, b, metric):
    if a == b:
        return DASH
    difference, parts = saved.mean(a, metric) - saved.mean(b, metric), []
    for over in ("users", "seeds"):
        test = saved.test(a, b, metric, over)
        if test is not None:
            value = p(test["p_holm"])
            parts.append(f"p {value} over {over}" if value.startswith("<") else f"p = {value} over {over}")
    return line(text(difference, sign=True), *parts)


def gaps(saved, modalities):
    rows = []
    for name in saved.contenders:
        row = [saved.title(name)]
        for m in modalities:
            teacher = saved.mean("teacher:" + m, saved.metric)
            view = saved.mean(name, saved.metric, "views", m)
            before = teacher - saved.mean("plain", saved.metric, "views", m)
            closed = DASH if name == "plain" or before <= 0 else share((before - (teacher - view)) / before)
            row += [text(view), share(view / teacher), text(teacher - view), closed]
        rows.append(row)
    return rows


def effects(saved):
    rows = []
    for name in saved.contenders:
        rows.append([saved.title(name).replace(" winner", ", winner").replace(" not ", ", not ")])
        for m in saved.modalities:
            e = saved.results["effects"][name][m]
            drop = f"{text(e['recall_drop'])} [{text(e['recall_drop_low'])}, {text(e['recall_drop_high'])}]"
            interval = f"[{text(e['low'])}, {text(e['high'])}]"
            row = [m, share(e["share"], 1), text(e["mean"]), interval, text(e["weight"]), drop]
            rows.append([*row, text(e["recall_alone"]), text(e["snr"])])
    return rows


def costs(saved):
    teachers = 0.0
    for m in saved.modalities:
        spent = [run["training_seconds"] for run in saved.runs if run["name"] == "teacher:" + m]
        teachers += sum(spent) / len(spent)
    found, rows = {}, []
    for name in [*saved.results["baselines"], *saved.contenders]:
        means = []
        for key in ("seconds_per_epoch", "best_epoch", "epochs", "training_seconds"):
            values = [run[key] for run in saved.runs if run["name"] == name and run[key] is not None]
            means.append(sum(values) / len(values) if values else math.nan)
        needs = any(entry["name"] == name and entry["needs_teachers"] for entry in saved.results["contenders"])
        found[name] = [*means, means[3] + teachers if needs else means[3]]
    for name, (speed, best, epochs, own, total) in found.items():
        ratios = [speed / found["plain"][0], total / found["plain"][3]]
        ratios = [DASH if math.isnan(ratio) else f"{ratio:.2f} ×" for ratio in ratios]
        row = [saved.title(name), text(speed, 2), ratios[0], text(best, 0), text(epochs, 0)]
        rows.append([*row, f"{own:,.1f}", f"{total:,.1f}", ratios[1]])
    return rows


def every_run(saved):
    rows = []
    for name in saved.names:
        for run in saved.runs:
            if run["name"] == name:
                title = BASELINES.get(name, name.replace("teacher:", "Teacher: "))
                title = line(title, "not converged" if run["converged"] is False else "")
                row = [title, str(run["seed"]), text(run["val"][saved.metric]), text(run["test"][saved.metric])]
                row += [text(run["best_epoch"], 0), text(run["epochs"], 0), text(run["seconds_per_epoch"], 2)]
                knobs = ", ".join(f"{key} = {value}" for key, value in run["settings"].items())
                rows.append([*row, "; ".join(filter(None, [run["stopped"], knobs])) or DASH])
    return rows


def expected(results):
    saved, data = Saved(results), results["data"]
    about = {
        "source": data["source"],
        "users": f"{data['num_users']:,}",
        "items": f"{data['num_items']:,}",
        "training interactions": f"{data['num_train']:,}",
        "validation interactions": f"{data['num_val']:,}",
        "test interactions": f"{data['num_test']:,}",
        "density": share(data["density"], 3),
        "items without training interactions": str(data["cold_items"]),
        "users without training interactions": str(data["cold_users"]),
        "fingerprint": data["fingerprint"],
    }
    features = [
        [m, str(info["dim"]), share(info["coverage"], 1), share(data["planted"][m])]
        for m, info in data["modalities"].items()
    ]
    main = ["recall@10", "recall@20", "ndcg@20", "precision@20", "coverage@20", "personalization@20"]
    flat = {}
    for key, value in results["settings"].items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": str(item) for name, item in value.items()}
        else:
            flat[key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    tables = {
        "Contenders: chosen on validation, tested on the test part": winners(saved),
        "Test metrics of every run": metrics(saved, main),
        "Further test metrics of every run": metrics(saved, ["ndcg@10", "map@20"]),
        "Every contender against plain": [
            [saved.title(n), *(compared(saved, n, "plain", m) for m in ("recall@20", "ndcg@20"))]
            for n in saved.contenders
            if n != "plain"
        ],
        "Every contender against every baseline, recall@20": [
            [saved.title(n), *(compared(saved, n, b, "recall@20") for b in results["baselines"])]
            for n in saved.contenders
        ],
        "Effects of every modality on every contender's model, validation part": effects(saved),
        "Ranking by one modality alone": [
            [m, text(row["recall"]), text(row["shuffled"]), p(row["p_value"])]
            for m, row in results["content"]["modalities"].items()
        ],
        "Cost of training": costs(saved),
        "Warm and cold items": [
            [saved.title(n), *(saved.spread(n, f"{group}/recall@20") for group in ("warm", "cold"))]
            for n in saved.names
        ],
        "Facts about the data": [list(item) for item in about.items()],
        "Modalities of the data": features,
        "Contenders and their options": [
            [
                saved.title(e["name"]),
                e["strategy"],
                ", ".join(f"{key} = {value}" for key, value in e["options"].items()) or DASH,
            ]
            for e in results["contenders"]
        ],
        "Settings of the study": [list(item) for item in flat.items()],
        "Every run with its end": every_run(saved),
        "Versions of the packages": [list(item) for item in results["versions"].items()],
    }
    first, rest = saved.modalities[:3], saved.modalities[3:]
    for some in filter(None, [first, rest]):
        names = some[0] if len(some) == 1 else ", ".join(some[:-1]) + " and " + some[-1]
        tables[f"Views of every contender against their teachers: {names}"] = gaps(saved, some)
    return tables


@pytest.mark.parametrize("num", [3, 5])
def test_every_number_in_every_table_is_what_a_loop_over_the_saved_results_finds(tmp_path, num):
    modalities = (*many.MODALITIES, "tags", "audio")[:num]
    write_json(tmp_path / "results.json", many.study(modalities))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    page = Page(write_report(tmp_path, results, {}).read_text(encoding="utf-8"))
    wanted = expected(results)
    assert set(page.tables) == set(wanted)
    for caption, rows in wanted.items():
        shown = [row for row in page.tables[caption] if len(row) > 1 or row in rows]
        assert shown[len(shown) - len(rows) :] == rows, caption
        assert len(shown) - len(rows) <= 2, caption  # Rows of titles.
    assert sum(len(row) for rows in wanted.values() for row in rows) > 500


def test_bold_is_the_best_of_each_column_and_only_that(tmp_path):
    results = many.study()
    page, saved = Page(write_report(tmp_path, results, {}).read_text(encoding="utf-8")), Saved(results)
    caption = "Test metrics of every run"
    best = set()
    for metric in page.tables[caption][0][1:]:
        means = {name: round(saved.mean(name, metric), 4) for name in saved.names}
        if len(set(means.values())) > 1:
            top = [name for name in means if means[name] == max(means.values())]
            best |= {(saved.title(name), saved.spread(name, metric)) for name in top}
    assert page.bold[caption] == best
    assert {name for name, _ in best} == {"mine winner"}
    views = page.bold["Views of every contender against their teachers: visual, textual and acoustic"]
    assert {name for name, _ in views} == {"ensemble"}
