"""The table of an ablation: the effect of each variant on retrieval, with intervals, next to that in the paper."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from slap_jax.errors import UserError

TITLES = {
    "full": "full",
    "no_distillation": "without self-distillation",
    "no_captioning": "without captioning",
    "contrastive_only": "without both",
    "all_global": "all layers global",
    "window_in_frames": "window in frames (48 tokens to each side, not 12)",
    "sigmoid": "sigmoid instead of softmax",
    "shared_view": "one masked view for all objectives",
}

# R@1 on AudioCaps, zero-shot, minus that of the full model (35.1, 44.8), in points: SLAP (arXiv 2601.12594), table 5.
PAPER = {
    "no_distillation": (-2.3, -2.4),
    "no_captioning": (-0.4, -1.8),
    "contrastive_only": (-2.5, -3.1),
    "all_global": (-0.9, -1.4),
}
DIRECTIONS = ("t2a", "a2t")
BEGIN, END = "<!-- ablations: begin -->", "<!-- ablations: end -->"
_RESAMPLES = 2_000


class AblationError(UserError, ValueError):
    """Runs that fail or that cannot be compared."""


def damaged_result(file: Path, error: Exception) -> AblationError:
    """Returns the error for the result file of a run that cannot be read."""
    return AblationError(f"{file} is damaged ({error!r}); delete it, and the run is evaluated again")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a finished run.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the parameters and of the data order.
        facts: JSON that the run wrote.
        values: (direction, metric) to the sum over the queries of each clip, [N].
        counts: Direction to the number of queries of each clip, [N].
    """

    variant: str
    seed: int
    facts: dict[str, Any]
    values: dict[tuple[str, str], Float[np.ndarray, " N"]]
    counts: dict[str, Int[np.ndarray, " N"]]

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        """Reads a file that `slap_jax.ablations.run.run` wrote.

        Raises:
            AblationError: it is damaged.
        """
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            clips = facts["clips"]
            values, counts = {}, {}
            for direction, owner in (("t2a", np.array(facts["owner"])), ("a2t", np.arange(clips))):
                counts[direction] = np.bincount(owner, minlength=clips)
                hit = np.array(facts[direction]["rank"]) == 1
                values[direction, "r1"] = np.bincount(owner, hit, minlength=clips)
                values[direction, "map10"] = np.bincount(owner, facts[direction]["ap10"], minlength=clips)
            return cls(facts["variant"], facts["seed"], facts, values, counts)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_result(file, error) from None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and queries in percent, with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(
    outcomes: Sequence[Outcome], direction: str, metric: str, baseline: Sequence[Outcome] | None = None
) -> Estimate:
    """Estimates a metric of a variant, or its difference from the baseline with the same seeds, in percentage points.

    The interval is a percentile bootstrap over seeds and, for each drawn seed, over clips with all of their queries.
    The variant and the baseline share the drawn clips. With few seeds, the variance between seeds is itself uncertain;
    with one seed, the interval does not include it.

    Args:
        outcomes: Runs of one variant.
        direction: "t2a" or "a2t".
        metric: "r1" or "map10".
        baseline: Runs to subtract; None for the metric itself.
    """
    values = np.stack([outcome.values[direction, metric] for outcome in outcomes])  # [seeds, N]
    counts = outcomes[0].counts[direction]
    if baseline is not None:
        of_seed = {outcome.seed: outcome.values[direction, metric] for outcome in baseline}
        values = values - np.stack([of_seed[outcome.seed] for outcome in outcomes])
    generator = np.random.default_rng(0)
    seeds, clips = values.shape
    means = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        total = count = 0.0
        for seed in generator.integers(seeds, size=seeds):
            times = np.bincount(generator.integers(clips, size=clips), minlength=clips)
            total, count = total + times @ values[seed], count + times @ counts
        means[index] = total / count
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(*(100 * float(x) for x in (values.sum() / (seeds * counts.sum()), low, high)))


def markdown(outcomes: Sequence[Outcome], variants: Sequence[str], seeds: Sequence[int], command: str) -> str:
    """Formats the finished runs of an ablation as Markdown.

    Args:
        outcomes: Finished runs, in any order.
        variants: Variants in the order of the table; the first is the baseline.
        seeds: Seeds that were requested.
        command: Command that reproduces the table.

    Raises:
        AblationError: No run of the baseline is finished, or runs were evaluated on different clips.
    """
    if len({outcome.facts["split_fingerprint"] for outcome in outcomes}) > 1:
        raise AblationError("the runs were evaluated on different clips; run them all on the same prepared data")
    of = {variant: [outcome for outcome in outcomes if outcome.variant == variant] for variant in variants}
    baseline = of[variants[0]]
    if not baseline:
        raise AblationError(f"no run of {variants[0]!r} is finished, and the others are compared with it")
    facts = baseline[0].facts
    lines = [
        f"`{command}`",
        "",
        f"{facts['steps']:,} steps, {facts['audio_seconds'] / 3_600:.1f} hours of audio with repetition in each run; "
        f"evaluated on {facts['clips']:,} clips with {facts['captions']:,} captions. All variants of a seed see the "
        "same batches. Differences are to the full model with the same seed, in percentage points; in brackets the "
        "95 % interval of a bootstrap over seeds and clips. Bold: the interval excludes 0.",
        "",
        "| variant | seeds | text to audio R@1 | difference | paper | audio to text R@1 | difference | paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    known = {outcome.seed for outcome in baseline}
    for variant in variants:
        runs = [outcome for outcome in of[variant] if outcome.seed in known]
        if runs:
            lines.append(_row(variant, runs, None if variant == variants[0] else baseline))
    lines += ["", "The same for mAP@10, which moves with every rank up to the tenth:", ""]
    lines += ["| variant | seeds | text to audio mAP@10 | difference | audio to text mAP@10 | difference |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for variant in variants:
        runs = [outcome for outcome in of[variant] if outcome.seed in known]
        if runs:
            lines.append(_row(variant, runs, None if variant == variants[0] else baseline, "map10"))
    if signs := _signs(of, baseline, variants, known):
        lines += ["", signs]
    if min(len(of[variant]) for variant in variants if of[variant]) == 1:
        lines += ["", "With one seed, the interval covers the choice of clips only: another seed may be outside it."]
    missing = [part for seed in seeds if (part := _missing(of, variants, seed))]
    if missing:
        lines += ["", f"Not run yet, and not part of any number above: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _missing(of: dict[str, list[Outcome]], variants: Sequence[str], seed: int) -> str:
    """Names the variants without a finished run for a seed; "" if there are none."""
    without = [variant for variant in variants if all(outcome.seed != seed for outcome in of[variant])]
    if not without:
        return ""
    return f"seed {seed}: {'all' if len(without) == len(variants) else ', '.join(without)}"


def _row(variant: str, runs: Sequence[Outcome], baseline: Sequence[Outcome] | None, metric: str = "r1") -> str:
    cells = [TITLES.get(variant, variant), str(len(runs))]
    for number, direction in enumerate(DIRECTIONS):
        own = estimate(runs, direction, metric)
        cells.append(f"{own.value:.1f} ({own.low:.1f} to {own.high:.1f})")
        if baseline is None:
            cells.append("–")
        else:
            change = estimate(runs, direction, metric, baseline)
            text = f"{change.value:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
            cells.append(f"**{text}**" if change.low > 0 or change.high < 0 else text)
        if metric == "r1":
            cells.append("–" if variant not in PAPER else f"{PAPER[variant][number]:+.1f}")
    return f"| {' | '.join(cells)} |"


def _signs(of: dict[str, list[Outcome]], baseline: Sequence[Outcome], variants: Sequence[str], known: set[int]) -> str:
    """Counts the effects that have the same sign as in the paper, and those among them that are significant."""
    same = total = clear = 0
    for variant in variants:
        runs = [outcome for outcome in of[variant] if outcome.seed in known]
        if variant not in PAPER or not runs:
            continue
        for number, direction in enumerate(DIRECTIONS):
            change = estimate(runs, direction, "r1", baseline)
            agrees = math.copysign(1, change.value) == math.copysign(1, PAPER[variant][number]) and change.value != 0
            total, same = total + 1, same + agrees
            clear += agrees and (change.low > 0 or change.high < 0)
    if total == 0:
        return ""
    return (
        f"Of the {total} effects on R@1 that the paper reports for these variants, {same} have the same sign here, "
        f"{clear} of them with an interval that excludes 0."
    )


def put_into(page: Path, text: str) -> None:
    """Writes the text between the two marks of a page, or appends both if the page has none or does not exist."""
    block = f"{BEGIN}\n{text}{END}"
    old = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n\n## Ablations\n"
    if BEGIN in old and END in old:
        new = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, old, count=1, flags=re.DOTALL)
    else:
        new = f"{old.rstrip()}\n\n{block}\n"
    page.write_text(new, encoding="utf-8")
