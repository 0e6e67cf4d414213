"""Stage 2 (E19, G18, G27, S13): is a small network grown from structure worth more than other ways to a small network?

Every arm trains the same small model (its parameters a share of the donor's) on the same tokens: grown from the donor's
genome, from a random genome, from scratch, from a subset of the donor's weights, or taught by the donor. At three sizes
of data, each read in as many steps: arms "grown 1/4" read a quarter of the text four times.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ontogeny.lab.answers import Answer, answer_of, find_contrast, measured
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.stage2_figures import cost_table, data_drawings, data_tables
from ontogeny.lab.judge import Assessment, ContrastSummary
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Verdict
from ontogeny.lab.store import Store
from ontogeny.training.develop import schedule

NAME = "stage2"
TITLE = "Stage 2: is a small network grown from structure worth more than other ways to one?"
FLAW = (
    "no number was published, and a second stage was never set beside what costs nothing: the same small network from "
    "scratch, from a random genome, or started from weights that are there anyway"
)

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"rank": "50%", "steps": 12, "evaluate_at": (6, 12)},
    "laptop": {"rank": "50%"},
    "workstation": {"rank": "50%"},
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M",
        rank="50%",
        steps=2000,
        evaluate_at=(100, 500, 1000, 2000),
        not_stated=("hub_donors", "text", "rank", "steps"),
    ),
}
BUDGET = 0.4  # of the donor's parameters
SIZES = {"": 1, "1/4": 4, "1/16": 16}  # setting -> how often its text is read
LEAST = "1/16"
TAUGHT = BUDGET / (BUDGET + 1 / 3)  # of the steps: the teacher's forward pass is a third of a donor's step
PROCESS: dict[str, Any] = {"keep": 0.5}

GROWN: dict[str, Any] = {"recipe": {"basis": "singular"}, "develop": PROCESS}
ARMS = {
    "grown": Arm("grown", description="from the donor's genome: developed, pruned to half its directions", **GROWN),
    "random": Arm("random", controls=("random",), description="the same from a random genome", **GROWN),
    "scratch": Arm("scratch", constraint="dense", description="every weight trained from a fresh start"),
    "subset": Arm("subset", constraint="weight-subset", description="started from a subset of the donor's weights"),
    "distilled": Arm("distilled", constraint="dense", teacher=True, description="from scratch, taught by the donor"),
    "distilled-shorter": Arm(
        "distilled-shorter",
        constraint="dense",
        teacher=True,
        setting="taught",
        description="the same in fewer steps, at the FLOPs of from scratch",
    ),
    "subset-body": Arm("subset-body", constraint="weight-subset-body", description="the same, embeddings fresh"),
}
ASKED_AT = {"distilled-shorter": ("",), "subset-body": (LEAST,)}  # the others with every size of text
RIVALS = ("subset", "distilled")  # other ways from a donor to a small network
WHOLE = Arm(
    "fine-tuned", constraint="weight-subset", setting="whole", description="no small network: the donor, trained on"
)
FULL_ARMS = ARMS | {
    "coherent": Arm("coherent", controls=("coherent",), description="grown from layers that agree", **GROWN),
    "projected": Arm("projected", constraint="projected-weights", description="the donor's weights, projected"),
    "mimetic": Arm("mimetic", constraint="mimetic", description="every weight trained from a mimetic start"),
    "low-rank": Arm("low-rank", constraint="low-rank", description="trainable A Bᵀ of the genome's rank"),
    "undeveloped": Arm("undeveloped", recipe={"basis": "singular"}, description="grown, nothing pruned"),
    "released": Arm("released", reading="start", description="grown at the start, then every weight free"),
}

RULES = {
    "estimand": "gap = test loss(other) − test loss(grown), nats a token, after the same tokens; embeddings fresh, but "
    "the donor's in the subset and projected arms: values are what they keep, and their start isn't audited. Equal "
    "tokens are not equal FLOPs: constrained arms cost less, taught ones the teacher's forward pass more (table, and "
    f"distilled-shorter, which trains {TAUGHT:.0%} of the steps)",
    "size": f"one model for all arms, at most {BUDGET:.0%} of the donor's parameters: width, feed-forward units and "
    "heads shrunk alike, layers by the square root",
    "data": "as many steps at every size of text: read once, 4 and 16 times; a part is the replicate's own, the same "
    "for all its arms, and the references are fitted on it",
    "teacher": "half cross-entropy, half T²·KL to the donor's predictions, T = 2 (ours)",
    "E19": "judged as: structure makes a small network that beats the same one from scratch. Supported if scratch − "
    "grown and random − grown are supported; refuted if scratch − grown is refuted; undecided, code mixed, if "
    "a random genome may do as well, or if a subset of the donor's weights or a taught network is better (95 % upper "
    "bound of its gap < −0.02)",
    "G18": "supported if scratch − distilled-shorter is supported: at equal FLOPs of the small network and its teacher "
    "(not of the donor's own training) what the donor found fits better when it is told than when it is searched for",
    "G27": "judged as: structure makes a network sample-efficient. As E19, with the least text",
    "S13": "judged as: with the least text a blueprint beats a photograph. Supported if subset-body − grown is "
    "supported there, both with fresh embeddings; undecided, code mixed, if the whole photograph, embeddings too, may "
    "be better (95 % lower bound of subset − grown ≤ −0.02)",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One small model; three sizes of text; in the full table the donor's own shape."""
    found = {name: Variant(scale, text, budget=BUDGET, repeats=n, activity=not name) for name, n in SIZES.items()}
    steps = max(1, round(TAUGHT * scale.steps))
    shorter = replace(scale, steps=steps, evaluate_at=(*(at for at in scale.evaluate_at if at < steps), steps))
    found["taught"] = Variant(shorter, text, budget=BUDGET, ahead=scale.steps - steps)  # the same text is read
    if table == "full":
        found[WHOLE.setting] = Variant(scale, text, activity=True)
    return found


def declare(*, given: bool, table: str, settings: Mapping[str, Setting], **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    schedule(rest["setting"].steps, **PROCESS)  # told now rather than in the first run
    kinds = FULL_ARMS if table == "full" else ARMS
    arms = [
        replace(arm, name=_name(kind, size), setting=arm.setting or size)
        for size in SIZES
        for kind, arm in kinds.items()
        if size in ASKED_AT.get(kind, SIZES)
    ]
    arms += [WHOLE] * (table == "full")
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings={"fresh": tuple(arm.name for arm in arms)},
        contrasts=tuple(_contrasts(list(kinds), whole=table == "full")),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        settings=dict(settings),
        alignments=(),
        **rest,
    )


def _name(kind: str, size: str) -> str:
    return f"{kind} {size}".strip()


QUESTIONS = {
    "scratch": "than the same network from scratch?",
    "random": "than one grown from a random genome?",
    "subset": "than a subset of the donor's weights?",
    "subset-body": "than a subset of the donor's layers?",
    "distilled": "than a network taught by the donor?",
    "distilled-shorter": "than one taught in fewer steps?",
}
PRIMARY = {"": ("scratch", "random"), LEAST: ("scratch", "random", "subset-body")}  # and scratch − distilled-shorter


def _contrasts(kinds: list[str], *, whole: bool) -> list[Contrast]:
    question = "is a taught network better than one from scratch?"
    found = [
        Contrast("fresh", "scratch", "distilled-shorter", f"at equal FLOPs: {question}"),
        Contrast("fresh", "scratch", "distilled", f"at equal tokens: {question}", primary=False),
    ]
    for size in SIZES:
        where = f"with {size} of the text: " if size else ""
        for kind in kinds:
            if kind != "grown" and size in ASKED_AT.get(kind, SIZES):
                question = f"{where}is a grown network better {QUESTIONS.get(kind, f'than {kind}?')}"
                primary = kind in PRIMARY.get(size, ())
                found.append(Contrast("fresh", _name(kind, size), _name("grown", size), question, primary))
    question = "what is a small network short of the donor itself, trained on (stage 1 to 3)?"
    return found + [Contrast("fresh", "grown", WHOLE.name, question, primary=False)] * whole


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E19, G18, G27 and S13."""
    answers = {
        "E19": _by_structure(assessment, ""),
        "G18": answer_of(assessment, "scratch − distilled-shorter (fresh)"),
        "G27": _by_structure(assessment, LEAST),
        "S13": _blueprint(assessment),
    }
    return answers_to_findings(assessment.experiment, answers)


def _against_grown(assessment: Assessment, kind: str, size: str) -> ContrastSummary | None:
    return find_contrast(assessment, f"{_name(kind, size)} − {_name('grown', size)} (fresh)")


def _by_structure(assessment: Assessment, size: str) -> Answer:
    """Better than from scratch, not because any genome would be, and not behind what else the donor can be used for."""
    scratch, random = (
        answer_of(assessment, f"{_name(other, size)} − {_name('grown', size)} (fresh)")
        for other in ("scratch", "random")
    )
    found = {kind: _against_grown(assessment, kind, size) for kind in ("scratch", "random", *RIVALS)}
    done = {kind: contrast for kind, contrast in found.items() if contrast and contrast.interval}
    told = "; ".join(measured(assessment, contrast) for contrast in done.values())
    plainly = "grown is " + ", ".join(f"{contrast.word} against {kind}" for kind, contrast in done.items())
    if scratch.verdict.word == "not run" or len(done) < len(found):
        return Answer(told, Verdict("not run"), "not finished")
    if scratch.verdict.word != "supported":
        return Answer(told, scratch.verdict, f"{scratch.verdict.code}; {plainly}".removeprefix("; "))
    if random.verdict.word != "supported":
        return Answer(told, Verdict("undecided", "mixed"), f"{plainly}; over a random genome: {random.why}")
    if any(done[kind].word == "worse" for kind in RIVALS):
        return Answer(told, Verdict("undecided", "mixed"), plainly)
    return Answer(told, scratch.verdict, plainly)


def _blueprint(assessment: Assessment) -> Answer:
    body = answer_of(assessment, f"subset-body {LEAST} − grown {LEAST} (fresh)")
    whole = _against_grown(assessment, "subset", LEAST)
    if whole is None or whole.interval is None or body.verdict.word == "not run":
        return Answer(body.measured, Verdict("not run"), "not finished")
    told = f"{body.measured}; {measured(assessment, whole)}"
    if body.verdict.word == "supported" and whole.interval.low <= -DELTA:
        return Answer(told, Verdict("undecided", "mixed"), "the whole photograph, embeddings too, may be better")
    return replace(body, measured=told)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Loss by size of the text, all builders on one figure."""
    return data_drawings(name, assessment, SIZES)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers, beside what every builder costs."""
    return (*data_tables(assessment, SIZES), cost_table(assessment))
